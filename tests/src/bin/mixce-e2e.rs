//! The same program as `mixce`, built by the test package so that end-to-end tests never run a stale binary.
fn main() -> std::process::ExitCode {
    mixce_cli::main()
}

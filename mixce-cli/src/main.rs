//! The `mixce` program; everything is in the library so that end-to-end tests can build it too.
fn main() -> std::process::ExitCode {
    mixce_cli::main()
}

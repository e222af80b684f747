//! One file per subcommand: its flags, and `run`.

pub mod synthetic;

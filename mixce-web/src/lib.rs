//! What the local web servers share: opening a port, serving until told to stop, security headers, the check of a request's host name.

mod headers;
mod server;

pub use headers::{is_local_name, protect};
pub use server::{Server, until_set};

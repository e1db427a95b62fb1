//! Where a request goes: its host and path in one form, and the table that is asked with them. Pure.

mod host;
mod path;
mod table;

pub use host::{Host, HostError};
pub use path::{Path, PathError};
pub use table::{Route, Table, TableError};

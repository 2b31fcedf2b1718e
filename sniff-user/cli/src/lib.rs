//! What `sniff` and `kubectl sniff` share on a terminal: options, the exit status, and what a person is told.

pub mod alarm;
pub mod exit;
pub mod files;
pub mod habits;
pub mod interrupt;
pub mod logging;
pub mod manual;
pub mod options;
pub mod profile;
pub mod sanitize;
pub mod similar;
pub mod status_line;
pub mod summary;
pub mod table;

//! Empty: lets `sniff-user`'s build script depend on this crate, so that cargo rebuilds the object when it changes.
#![no_std]

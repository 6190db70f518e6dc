//! The server as its clients see it: the real program, a real exported model, real sockets.

mod bad_request;
mod fixture;
mod good_request;
mod hostile;
mod index;
mod process;

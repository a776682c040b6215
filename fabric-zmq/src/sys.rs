//! The two socket options that the binding has no setter for, and the descriptor that libzmq signals
//! through, handed to tokio. The only `unsafe` of this crate.

#![allow(unsafe_code, reason = "libzmq is called directly here, and nowhere else")]

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zmq::Socket;

/// An option of publishing sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PublishOption {
    /// A send to a full pipe answers `EAGAIN` instead of dropping in silence.
    NoDrop,
    /// Every subscription and its end is told, also the second of its kind.
    Verbose,
}

/// Switches an option on.
pub(crate) fn switch_on(socket: &mut Socket, option: PublishOption) -> zmq::Result<()> {
    let option = match option {
        PublishOption::NoDrop => zmq_sys::ZMQ_XPUB_NODROP,
        PublishOption::Verbose => zmq_sys::ZMQ_XPUB_VERBOSER,
    };
    let value: c_int = 1;
    // SAFETY: the socket is open, since it is only closed by its `Drop`, and the exclusive borrow
    // means that no other thread is inside it, which libzmq demands: "Do not use or close sockets
    // except in the thread that created them", where a hand-over with a full fence counts as such.
    // `value` lives across the call, and its size is that of the `int` which both options take.
    let answer = unsafe {
        zmq_sys::zmq_setsockopt(
            socket.as_mut_ptr(),
            option as c_int,
            std::ptr::from_ref(&value).cast::<c_void>(),
            size_of::<c_int>(),
        )
    };
    if answer == 0 {
        return Ok(());
    }
    // SAFETY: it reads the error number of this thread, which the call above has just set.
    Err(zmq::Error::from_raw(unsafe { zmq_sys::zmq_errno() }))
}

/// Registers the signal of an open socket with tokio.
pub(crate) fn listen_to(_open: &Socket, signal: RawFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the socket is open, and libzmq keeps its signal open as long; it is borrowed for this
    // one call.
    let owned = unsafe { BorrowedFd::borrow_raw(signal) }.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` answers the same descriptor each time, and keeps it open as long as it
    // lives, which is as long as the registration.
    unsafe { AsyncFd::register_with_interest(owned, Interest::READABLE) }.map_err(io::Error::from)
}

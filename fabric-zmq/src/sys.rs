//! The two socket options that the binding has no setter for, frames whose places are used again, and
//! the descriptor that libzmq signals through, handed to tokio. The only `unsafe` of this crate.

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
    Err(last_error())
}

/// Why the call failed that was just made on this thread.
fn last_error() -> zmq::Error {
    // SAFETY: it reads the error number of this thread.
    zmq::Error::from_raw(unsafe { zmq_sys::zmq_errno() })
}

/// One frame of a message, in a place that can be used again.
///
/// The binding's own type is taken by value to be sent, so that it is made and closed once more for
/// every frame that is passed on.
pub(crate) struct Part(zmq_sys::zmq_msg_t);

impl Part {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let mut part = Self(zmq_sys::zmq_msg_t::default());
        // SAFETY: this makes an empty message of any memory of its size, and cannot fail. A message
        // may lie anywhere and be moved, as the binding does with its own, while nobody points into
        // it: what points is borrowed from it.
        unsafe { zmq_sys::zmq_msg_init(&raw mut part.0) };
        part
    }

    /// Takes the next frame of a socket in place of this one, if there is one now.
    pub(crate) fn receive(&mut self, socket: &mut Socket) -> zmq::Result<()> {
        // SAFETY: the message is one since `new`; libzmq lets go of what it held. The socket is open
        // and nobody else is inside it, as for `switch_on`.
        let answer = unsafe {
            zmq_sys::zmq_msg_recv(&raw mut self.0, socket.as_mut_ptr(), zmq::DONTWAIT as c_int)
        };
        if answer < 0 { Err(last_error()) } else { Ok(()) }
    }

    /// Sends this frame, if there is room; it is empty then.
    pub(crate) fn send(&mut self, socket: &mut Socket, more: bool) -> zmq::Result<()> {
        let flags = zmq::DONTWAIT | if more { zmq::SNDMORE } else { 0 };
        // SAFETY: as for `receive`; libzmq takes the content and leaves an empty message, or fails and
        // leaves it as it was.
        let answer =
            unsafe { zmq_sys::zmq_msg_send(&raw mut self.0, socket.as_mut_ptr(), flags as c_int) };
        if answer < 0 { Err(last_error()) } else { Ok(()) }
    }

    /// Whether another frame of the same message follows.
    pub(crate) fn has_more(&self) -> bool {
        // SAFETY: the message is one since `new`, and only looked at.
        unsafe { zmq_sys::zmq_msg_more(&raw const self.0) != 0 }
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: the message is one since `new`, and only looked at.
        unsafe { zmq_sys::zmq_msg_size(&raw const self.0) }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let message = (&raw const self.0).cast_mut();
        // SAFETY: libzmq tells where the bytes are, without changing anything; they are as many as it
        // says, initialised, and stay there until the message is changed, which takes a `&mut`.
        unsafe { std::slice::from_raw_parts(zmq_sys::zmq_msg_data(message).cast(), self.len()) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: the message is one since `new`, and nobody uses it any more.
        unsafe { zmq_sys::zmq_msg_close(&raw mut self.0) };
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
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

//! What core does by itself, over a backend of a few lines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod hooks;
mod letters;
mod publish;
mod receive;
mod refused;
mod settlement;
mod tiny;

//! The derive macro of Event Fabric. Use it through the crate `fabric`.

mod attributes;
mod content;
mod duration;
mod expand;
mod topic;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

#[doc = include_str!("event.md")]
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

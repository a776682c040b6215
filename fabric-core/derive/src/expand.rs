//! From the type with its attributes to the implementation of `TypedEvent`.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Field, Fields, Ident, Index, Member, Path, Result};

use crate::attributes::{At, Attributes, Errors};
use crate::content::{Codec, Content};
use crate::topic::{Level, Template};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let mut errors = Errors::default();
    errors.keep(check_type(input));
    errors.keep(check_places(&input.data));
    let attributes = errors.keep(Attributes::read(&input.attrs, &input.ident));
    let code = attributes.and_then(|attributes| {
        let code = Code { name: &input.ident, data: &input.data, attributes: &attributes };
        errors.keep(code.write())
    });
    errors.finish()?;
    Ok(code.unwrap_or_default())
}

fn check_type(input: &DeriveInput) -> Result<()> {
    if let Data::Union(data) = &input.data {
        return Err(Error::new_spanned(
            data.union_token,
            "an event is a struct or an enum, no union",
        ));
    }
    if input.generics.params.is_empty() {
        return Ok(());
    }
    Err(Error::new_spanned(
        &input.generics,
        "an event has no generic parameters: topic, type and version belong to one type",
    ))
}

/// Refuses attributes where they would say nothing.
fn check_places(data: &Data) -> Result<()> {
    let mut errors = Errors::default();
    let mut check = |attributes: &[Attribute]| {
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("event")) {
            errors.add(Error::new_spanned(
                attribute,
                "`event` stands on the type; for a field write its name there, as in \
                 `#[event(topic = \"plan.{plan}\", key = \"plan\")]`",
            ));
        }
    };
    match data {
        Data::Struct(data) => data.fields.iter().for_each(|field| check(&field.attrs)),
        Data::Enum(data) => {
            for variant in &data.variants {
                check(&variant.attrs);
                variant.fields.iter().for_each(|field| check(&field.attrs));
            }
        }
        Data::Union(_) => {}
    }
    errors.finish()
}

/// Everything that is known about the type.
struct Code<'a> {
    name: &'a Ident,
    data: &'a Data,
    attributes: &'a Attributes,
}

impl Code<'_> {
    fn write(&self) -> Result<TokenStream> {
        let mut errors = Errors::default();
        let topic = errors.keep(self.topic());
        let key = errors.keep(self.key());
        let codec = errors.keep(self.codec());
        errors.finish()?;

        let Attributes { event_type, version, .. } = self.attributes;
        let pattern = self.attributes.topic.value.pattern();
        let media_type = &self.attributes.content.value.media_type;
        let (name, private) = (self.name, self.private());
        let (priority, ttl, request) = (self.priority(), self.ttl(), self.request());
        let size = self.size();
        Ok(quote! {
            #[automatically_derived]
            impl #private::TypedEvent for #name {
                const TYPE: &'static str = #event_type;
                const VERSION: u32 = #version;
                const PATTERN: &'static str = #pattern;
                const CONTENT_TYPE: &'static str = #media_type;

                #topic
                #key
                #codec
                #priority
                #ttl
                #size
            }

            #request
        })
    }

    fn topic(&self) -> Result<TokenStream> {
        let At { value: template, span } = &self.attributes.topic;
        let private = self.private();
        let body = if template.fields().next().is_none() {
            quote! {
                static TOPIC: #private::OnceLock<#private::Topic> = #private::OnceLock::new();
                #private::fixed_topic(&TOPIC, Self::PATTERN)
            }
        } else {
            let name = self.name.unraw().to_string();
            let parts = self.parts(template, *span)?;
            quote! { #private::topic(#name, &[#(#parts),*]) }
        };
        Ok(quote! {
            fn topic(&self) -> #private::Result<#private::Topic> {
                #body
            }
        })
    }

    fn parts(&self, template: &Template, span: Span) -> Result<Vec<TokenStream>> {
        let private = self.private();
        let mut errors = Errors::default();
        let mut parts = Vec::new();
        for part in template.parts() {
            match part {
                Level::Literal(text) => parts.push(quote! { #private::Part::Literal(#text) }),
                Level::Field(name) => {
                    let Some(member) = errors.keep(self.member(&name, "topic", span)) else {
                        continue;
                    };
                    let value = quote_spanned! {here(span)=> &self.#member };
                    parts.push(quote! { #private::Part::Field(#name, #value) });
                }
            }
        }
        errors.finish()?;
        Ok(parts)
    }

    fn key(&self) -> Result<TokenStream> {
        let body = match &self.attributes.key {
            None => quote! { ::core::option::Option::None },
            Some(field) => {
                let member = self.member(&field.value(), "key", field.span())?;
                let text = quote_spanned! {here(field.span())=>
                    ::std::string::ToString::to_string(&self.#member)
                };
                quote! { ::core::option::Option::Some(#text) }
            }
        };
        Ok(quote! {
            fn key(&self) -> ::core::option::Option<::std::string::String> {
                #body
            }
        })
    }

    fn codec(&self) -> Result<TokenStream> {
        let private = self.private();
        let span = here(self.name.span());
        let whole = |codec: &str| {
            // Without its feature the codec is missing: that error is about the attribute.
            let codec = Ident::new(codec, here(self.attributes.content.span));
            let codec = quote_spanned! {span=> <#private::#codec as #private::Codec> };
            let encode = quote_spanned! {span=> #codec::encode(self) };
            (encode, quote_spanned! {span=> #codec::decode::<Self>(payload) })
        };
        let (encode, decode) = match self.attributes.content.value.codec {
            Codec::Json => whole("Json"),
            Codec::MessagePack => whole("MessagePack"),
            Codec::Cbor => whole("Cbor"),
            Codec::Raw => self.raw()?,
        };
        Ok(quote! {
            fn encode(&self) -> #private::Result<#private::Bytes> {
                #encode
            }

            fn decode(payload: &[u8]) -> #private::Result<Self> {
                #decode
            }
        })
    }

    /// The one field is the payload.
    fn raw(&self) -> Result<(TokenStream, TokenStream)> {
        let At { value: Content { media_type, .. }, span } = &self.attributes.content;
        let Some((member, field)) = self.only_field() else {
            return Err(Error::new(
                *span,
                format!(
                    "a payload of `{media_type}` is written as it is: `{}` needs one field that \
                     holds it, such as `struct Frame(Vec<u8>);`",
                    self.name.unraw()
                ),
            ));
        };
        let (private, held) = (self.private(), &field.ty);
        let encode =
            quote_spanned! {here(held.span())=> #private::raw::encode::<#held>(&self.#member) };
        let decode = quote_spanned! {here(held.span())=>
            #private::raw::decode::<Self, #held>(payload)
        };
        let decode = quote! {
            let field = #decode?;
            ::core::result::Result::Ok(Self { #member: field })
        };
        Ok((encode, decode))
    }

    fn priority(&self) -> Option<TokenStream> {
        let (private, priority) = (self.private(), self.attributes.priority.as_ref()?);
        let priority = Ident::new(&priority.to_string(), Span::call_site());
        Some(quote! {
            fn priority(&self) -> #private::Priority {
                #private::Priority::#priority
            }
        })
    }

    fn ttl(&self) -> Option<TokenStream> {
        let (private, ttl) = (self.private(), self.attributes.ttl?);
        let (seconds, nanos) = (ttl.as_secs(), ttl.subsec_nanos());
        Some(quote! {
            fn ttl(&self) -> ::core::option::Option<#private::Duration> {
                ::core::option::Option::Some(#private::Duration::new(#seconds, #nanos))
            }
        })
    }

    /// The size of the value with what its fields hold.
    fn size(&self) -> TokenStream {
        let private = self.private();
        let arm = |path: TokenStream, fields: &Fields| {
            let (members, names): (Vec<_>, Vec<_>) = members(fields)
                .enumerate()
                .map(|(n, (member, _))| (member, format_ident!("field_{n}")))
                .unzip();
            quote! {
                #path { #(#members: #names),* } => {
                    0 #(+ (&#private::Held(#names)).held_bytes())*
                }
            }
        };
        let arms: Vec<_> = match self.data {
            Data::Struct(data) => vec![arm(quote! { Self }, &data.fields)],
            Data::Enum(data) => data
                .variants
                .iter()
                .map(|variant| {
                    let name = &variant.ident;
                    arm(quote! { Self::#name }, &variant.fields)
                })
                .collect(),
            Data::Union(_) => Vec::new(),
        };
        if arms.is_empty() {
            return TokenStream::new();
        }
        quote! {
            fn size_in_memory(&self) -> usize {
                #[allow(unused_imports, reason = "some types need the one, some the other")]
                use #private::{HeldBytes as _, HeldElsewhere as _};
                let held = match self {
                    #(#arms)*
                };
                ::core::mem::size_of::<Self>() + held
            }
        }
    }

    fn request(&self) -> Option<TokenStream> {
        let (name, private) = (self.name, self.private());
        let reply = self.attributes.reply.as_ref()?;
        Some(quote! {
            #[automatically_derived]
            impl #private::TypedRequest for #name {
                type Reply = #reply;
            }
        })
    }

    /// The field called `name`, which `attribute` at `span` asks for.
    fn member(&self, name: &str, attribute: &str, span: Span) -> Result<Member> {
        let Some(fields) = self.fields() else {
            let text = format!(
                "`{attribute}` names the field `{name}`, and an enum has no field that all its \
                 variants share: make each variant a struct with a topic of its own"
            );
            return Err(Error::new(span, text));
        };
        let mut members = members(fields);
        members.find(|(member, _)| shown(member) == name).map(|(member, _)| member).ok_or_else(
            || {
                let event = self.name.unraw();
                let known: Vec<_> = self::members(fields)
                    .map(|(member, _)| format!("`{}`", shown(&member)))
                    .collect();
                let known = match known.as_slice() {
                    [] => "it has no fields".to_owned(),
                    [one] => format!("its field is {one}"),
                    _ => format!("its fields are {}", known.join(", ")),
                };
                let text = format!("`{attribute}` names `{name}`, no field of `{event}`; {known}");
                Error::new(span, text)
            },
        )
    }

    /// The fields that topic and key may name: those of a struct.
    fn fields(&self) -> Option<&Fields> {
        match self.data {
            Data::Struct(data) => Some(&data.fields),
            Data::Enum(_) | Data::Union(_) => None,
        }
    }

    fn only_field(&self) -> Option<(Member, &Field)> {
        let mut members = members(self.fields()?);
        members.next().filter(|_| members.next().is_none())
    }

    /// What the generated code calls.
    fn private(&self) -> TokenStream {
        let krate: &Path = &self.attributes.krate;
        quote! { #krate::__private }
    }
}

fn members(fields: &Fields) -> impl Iterator<Item = (Member, &Field)> {
    fields.iter().enumerate().map(|(n, field)| {
        let unnamed = || Member::Unnamed(Index::from(n));
        (field.ident.clone().map_or_else(unnamed, Member::Named), field)
    })
}

/// A field as templates name it.
fn shown(member: &Member) -> String {
    match member {
        Member::Named(name) => name.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

/// Names mean what they mean in generated code; errors point at `span`.
fn here(span: Span) -> Span {
    Span::call_site().located_at(span)
}

//! The setters of a backend's configuration.

/// Writes the setters of a configuration, in its `impl`: name, field and the field's type.
///
/// A field after `into` is an `Option`, and its setter takes whatever becomes what is in it.
///
/// ```
/// #[derive(Default)]
/// pub struct MyConfig {
///     prefetch: usize,
///     client_id: Option<String>,
/// }
///
/// impl MyConfig {
///     fabric_core::setters! {
///         /// Sets the most events that one subscription holds unsettled.
///         with_prefetch prefetch: usize;
///         /// Sets what the client calls itself.
///         with_client_id into client_id: String;
///     }
/// }
///
/// let config = MyConfig::default().with_prefetch(16).with_client_id("robot");
/// assert_eq!((config.prefetch, config.client_id.as_deref()), (16, Some("robot")));
/// ```
#[macro_export]
macro_rules! setters {
    () => {};
    ($(#[doc = $doc:literal])+ $setter:ident into $field:ident: $type:ty; $($rest:tt)*) => {
        $(#[doc = $doc])+
        #[must_use]
        pub fn $setter(mut self, $field: impl Into<$type>) -> Self {
            self.$field = Some($field.into());
            self
        }
        $crate::setters! { $($rest)* }
    };
    ($(#[doc = $doc:literal])+ $setter:ident $field:ident: $type:ty; $($rest:tt)*) => {
        $(#[doc = $doc])+
        #[must_use]
        pub fn $setter(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
        $crate::setters! { $($rest)* }
    };
}

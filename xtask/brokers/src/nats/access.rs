//! Who is let in, and what they may do.

use std::fmt::Write as _;

/// Who is let in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Whoever knows this.
    Token(String),
    /// These.
    Users(Vec<User>),
    /// Whoever has credentials of this operator's account: lines of the configuration, as
    /// [`Operator`](super::Operator) makes them.
    Operator(String),
}

/// Somebody who is let in.
#[derive(Clone, Debug)]
pub struct User {
    login: Login,
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
enum Login {
    Password(String, String),
    Nkey(String),
}

impl User {
    /// Somebody with a name and a password, who may do everything.
    #[must_use]
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self::with(Login::Password(name.into(), password.into()))
    }

    /// Somebody whose public NKey this is, who may do everything.
    #[must_use]
    pub fn nkey(public: impl Into<String>) -> Self {
        Self::with(Login::Nkey(public.into()))
    }

    const fn with(login: Login) -> Self {
        Self { login, publish: None, subscribe: None }
    }

    /// Who may publish to these subjects alone.
    #[must_use]
    pub fn publish<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.publish = Some(subjects.into_iter().map(Into::into).collect());
        self
    }

    /// Who may subscribe to these subjects alone.
    #[must_use]
    pub fn subscribe<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.subscribe = Some(subjects.into_iter().map(Into::into).collect());
        self
    }

    /// Who may do nothing.
    #[must_use]
    pub fn powerless(self) -> Self {
        self.publish(Vec::<String>::new()).subscribe(Vec::<String>::new())
    }

    fn line(&self) -> String {
        let login = match &self.login {
            Login::Password(name, password) => format!("user: {name:?}, password: {password:?}"),
            Login::Nkey(public) => format!("nkey: {public}"),
        };
        let rights = [("publish", &self.publish), ("subscribe", &self.subscribe)];
        let rights: Vec<String> = rights
            .iter()
            .filter_map(|(what, subjects)| subjects.as_ref().map(|list| right(what, list)))
            .collect();
        format!("    {{ {login}, permissions: {{ {} }} }}\n", rights.join(", "))
    }
}

fn right(what: &str, subjects: &[String]) -> String {
    if subjects.is_empty() {
        return format!("{what}: {{ deny: [\">\"] }}");
    }
    format!("{what}: {{ allow: {subjects:?} }}")
}

impl Access {
    pub(super) fn configuration(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = match self {
            Self::Open => Ok(()),
            Self::Token(token) => writeln!(text, "authorization {{ token: {token:?} }}"),
            Self::Users(users) => {
                let lines: String = users.iter().map(User::line).collect();
                writeln!(text, "authorization {{\n  users: [\n{lines}  ]\n}}")
            }
            Self::Operator(lines) => writeln!(text, "{lines}"),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_their_rights_are_written_as_the_server_reads_them() {
        let users = Access::Users(vec![
            User::new("ada", "secret"),
            User::nkey("UABC").publish(["a.>"]).subscribe(["_INBOX.>", "b"]),
            User::new("eve", "x").powerless(),
        ]);
        let expected = "authorization {\n  users: [\n\
            \x20   { user: \"ada\", password: \"secret\", permissions: {  } }\n\
            \x20   { nkey: UABC, permissions: { publish: { allow: [\"a.>\"] }, \
            subscribe: { allow: [\"_INBOX.>\", \"b\"] } } }\n\
            \x20   { user: \"eve\", password: \"x\", permissions: { publish: { deny: [\">\"] }, \
            subscribe: { deny: [\">\"] } } }\n  ]\n}\n";
        assert_eq!(users.configuration(), expected);
    }
}

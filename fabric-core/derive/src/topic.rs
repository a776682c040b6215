//! Templates of topics, checked while the program is compiled.
//!
//! The rules are those of `fabric_core::Topic`; a test holds the two together.

/// A topic in which a level may stand for a field: `plan.{plan}.step_ready`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Level>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Literal(String),
    /// The name of a field, or its number in a tuple struct.
    Field(String),
}

impl Template {
    /// Reads a template, or says which rule it breaks and where.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut levels = Vec::new();
        let mut start = 0;
        for level in text.split('.') {
            if levels.len() == MAX_LEVELS {
                return Err(format!(
                    "the topic {text:?} has a level {} at byte {start}; a topic has at most \
                     {MAX_LEVELS} levels",
                    MAX_LEVELS + 1,
                ));
            }
            let place = Place { topic: text, number: levels.len() + 1, start };
            levels.push(Level::parse(level, place)?);
            start += level.len() + 1;
        }
        let template = Self(levels);
        template.check_length(text)?;
        template.check_reserved(text)?;
        Ok(template)
    }

    /// The names of the fields, in order; a name may stand there twice.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|level| match level {
            Level::Literal(_) => None,
            Level::Field(name) => Some(name.as_str()),
        })
    }

    /// The pattern of all its topics: `*` for each field.
    pub(crate) fn pattern(&self) -> String {
        self.joined(|level| match level {
            Level::Literal(text) => Some(text),
            Level::Field(_) => Some("*"),
        })
    }

    /// The levels that are no fields; empty where all are.
    pub(crate) fn event_type(&self) -> String {
        self.joined(|level| match level {
            Level::Literal(text) => Some(text),
            Level::Field(_) => None,
        })
    }

    /// The template as what is written one after the other: fields, and all that lies between.
    pub(crate) fn parts(&self) -> Vec<Level> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        for (n, level) in self.0.iter().enumerate() {
            if n > 0 {
                literal.push('.');
            }
            match level {
                Level::Literal(text) => literal.push_str(text),
                Level::Field(name) => {
                    if !literal.is_empty() {
                        parts.push(Level::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Level::Field(name.clone()));
                }
            }
        }
        if !literal.is_empty() {
            parts.push(Level::Literal(literal));
        }
        parts
    }

    fn joined<'a>(&'a self, text: impl Fn(&'a Level) -> Option<&'a str>) -> String {
        self.0.iter().filter_map(text).collect::<Vec<_>>().join(".")
    }

    /// A field is at least one byte long.
    fn check_length(&self, text: &str) -> Result<(), String> {
        let least = self.pattern().len();
        if least <= MAX_BYTES {
            return Ok(());
        }
        let at_least = if self.fields().next().is_some() { "at least " } else { "" };
        Err(format!("the topic {text:?} has {at_least}{least} bytes; a topic has 1 to {MAX_BYTES}"))
    }

    fn check_reserved(&self, text: &str) -> Result<(), String> {
        match self.0.first() {
            Some(Level::Literal(first)) if RESERVED.contains(&first.as_str()) => Err(format!(
                "the topic {text:?} is reserved: topics under `dlq.`, `_reply.` and `_fabric.` are \
                 written by Fabric alone"
            )),
            _ => Ok(()),
        }
    }
}

impl Level {
    fn parse(level: &str, place: Place<'_>) -> Result<Self, String> {
        let field = level.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        if let Some(name) = field.filter(|name| !name.contains(['{', '}'])) {
            if name.is_empty() {
                return Err(place.refuse("names no field", "a field stands as `{name}`"));
            }
            return Ok(Self::Field(name.to_owned()));
        }
        if level.is_empty() {
            return Err(place.refuse("is empty", "no level is empty"));
        }
        let Some((at, found)) = level.char_indices().find(|(_, c)| !is_word_char(*c)) else {
            return Ok(Self::Literal(level.to_owned()));
        };
        let rule = match found {
            '{' | '}' => "a field is a level of its own, such as `{name}`",
            '*' | '#' | '>' => "a wildcard stands only in a pattern",
            _ => "a level holds only A-Z, a-z, 0-9, `_` and `-`",
        };
        let at = place.start + at;
        let (topic, number) = (place.topic, place.number);
        Err(format!("the topic {topic:?} has {found:?} at byte {at} in level {number}; {rule}"))
    }
}

/// Where a level stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    topic: &'a str,
    /// Counted from 1.
    number: usize,
    /// The index of its first byte in the topic.
    start: usize,
}

impl Place<'_> {
    fn refuse(self, what: &str, rule: &str) -> String {
        let Self { topic, number, start } = self;
        format!("level {number} of the topic {topic:?}, at byte {start}, {what}; {rule}")
    }
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

const MAX_BYTES: usize = 200;
const MAX_LEVELS: usize = 16;
const RESERVED: [&str; 3] = ["dlq", "_reply", "_fabric"];

#[cfg(test)]
mod tests {
    use fabric_core::{Pattern, Topic};

    use super::*;

    #[test]
    fn limits_are_those_of_topics() {
        assert_eq!((MAX_BYTES, MAX_LEVELS), (Topic::MAX_BYTES, Topic::MAX_LEVELS));
        for reserved in RESERVED {
            assert!(Topic::new(reserved).unwrap().is_reserved());
        }
    }

    #[test]
    fn a_template_gives_pattern_and_type() {
        let template = Template::parse("plan.{plan}.step_ready").unwrap();
        assert_eq!(template.pattern(), "plan.*.step_ready");
        assert_eq!(template.event_type(), "plan.step_ready");
        assert_eq!(template.fields().collect::<Vec<_>>(), ["plan"]);
        let literal = |text: &str| Level::Literal(text.to_owned());
        let field = |text: &str| Level::Field(text.to_owned());
        assert_eq!(template.parts(), [literal("plan."), field("plan"), literal(".step_ready")]);

        let template = Template::parse("{a}.{0}").unwrap();
        assert_eq!(template.parts(), [field("a"), literal("."), field("0")]);
        assert_eq!((template.pattern().as_str(), template.event_type().as_str()), ("*.*", ""));
    }

    #[test]
    fn an_error_names_the_topic_the_place_and_the_rule() {
        let long = ["l"; 17].join(".");
        let many_bytes = format!("{}.{{a}}", "a".repeat(199));
        for (text, why) in [
            ("", r#"level 1 of the topic "", at byte 0, is empty; no level is empty"#),
            ("a..b", r#"level 2 of the topic "a..b", at byte 2, is empty; no level is empty"#),
            ("a.{}", "level 2 of the topic \"a.{}\", at byte 2, names no field; a field stands"),
            ("a.{b}-c", "has '{' at byte 2 in level 2; a field is a level of its own"),
            ("a.{b", "has '{' at byte 2 in level 2; a field is a level of its own"),
            ("a.{{b}}", "has '{' at byte 2 in level 2; a field is a level of its own"),
            ("a.b}", "has '}' at byte 3 in level 2"),
            ("a.*", "has '*' at byte 2 in level 2; a wildcard stands only in a pattern"),
            ("a.b c", "has ' ' at byte 3 in level 2; a level holds only A-Z"),
            (&long, "has a level 17 at byte 32; a topic has at most 16 levels"),
            (&"a".repeat(201), "has 201 bytes; a topic has 1 to 200"),
            (&many_bytes, "has at least 201 bytes; a topic has 1 to 200"),
            ("dlq.{group}", "is reserved: topics under `dlq.`"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    /// Every text of up to six characters out of those that matter, as core sees it.
    #[test]
    fn core_takes_the_same_topics() {
        let alphabet = ['a', '.', '-', '_', 'Z', '9', '*', ' ', 'é'];
        let mut texts = vec![String::new()];
        let mut from = 0;
        for _ in 0..5 {
            let end = texts.len();
            for n in from..end {
                for c in alphabet {
                    texts.push(format!("{}{c}", texts[n]));
                }
            }
            from = end;
        }
        texts.extend(["l.".repeat(16), ["l"; 16].join("."), "a".repeat(200), "dlq.a".to_owned()]);
        for text in texts {
            let core = Topic::new(&text).is_ok_and(|topic| !topic.is_reserved());
            let own = Template::parse(&text);
            assert_eq!(own.is_ok(), core, "{text:?}: {own:?}");
            if let Ok(template) = own {
                assert_eq!((template.pattern(), template.event_type()), (text.clone(), text));
            }
        }
    }

    #[test]
    fn every_topic_of_a_template_matches_its_pattern() {
        for text in ["{a}", "a.{b}", "{a}.b.{c}", "a.{b}.{c}.d", "plan.{plan}.step_ready"] {
            let template = Template::parse(text).unwrap();
            let topic: String = template
                .parts()
                .into_iter()
                .map(|part| match part {
                    Level::Literal(text) => text,
                    Level::Field(_) => "value".to_owned(),
                })
                .collect();
            let pattern = Pattern::new(template.pattern()).unwrap();
            assert!(pattern.matches(&Topic::new(&topic).unwrap()), "{topic} {pattern}");
        }
    }
}

//! A small tree of XML elements, written by quick-xml.
//!
//! Domain XML is built as values and escaped in one place by the library; no text is ever pasted into markup.

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

/// A character that XML 1.0 cannot carry, even escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("<{element}> would hold {character:?}, which XML cannot carry")]
pub struct ForbiddenCharacter {
    /// The element it stands in.
    pub element: String,
    /// The character.
    pub character: char,
}

/// One element.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Children(Vec<Element>),
    Text(String),
}

impl Element {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, attributes: Vec::new(), content: Content::Children(Vec::new()) }
    }

    /// An element that holds only text.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass numbers, names and texts alike, without a `&` each"
    )]
    pub(crate) fn with_text(name: &'static str, text: impl ToString) -> Self {
        Self { name, attributes: Vec::new(), content: Content::Text(text.to_string()) }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass numbers, names and texts alike, without a `&` each"
    )]
    pub(crate) fn attr(mut self, name: &'static str, value: impl ToString) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    pub(crate) fn attr_if(self, condition: bool, name: &'static str, value: impl ToString) -> Self {
        if condition { self.attr(name, value) } else { self }
    }

    pub(crate) fn child(self, child: Self) -> Self {
        self.children([child])
    }

    /// Appends any number of children: an array, an iterator, or an `Option`.
    pub(crate) fn children(mut self, more: impl IntoIterator<Item = Self>) -> Self {
        match &mut self.content {
            Content::Children(children) => children.extend(more),
            Content::Text(_) => unreachable!("<{}> holds text", self.name),
        }
        self
    }

    /// The text of this element and everything in it, indented by two spaces.
    pub(crate) fn render(&self) -> Result<String, ForbiddenCharacter> {
        self.check()?;
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        self.write(&mut writer);
        let mut text = String::from_utf8(writer.into_inner()).expect("only str was written");
        text.push('\n');
        Ok(text)
    }

    fn check(&self) -> Result<(), ForbiddenCharacter> {
        let refuse = |text: &str| match text.chars().find(|c| !may_stand_in_xml(*c)) {
            Some(character) => Err(ForbiddenCharacter { element: self.name.to_owned(), character }),
            None => Ok(()),
        };
        self.attributes.iter().try_for_each(|(_, value)| refuse(value))?;
        match &self.content {
            Content::Text(text) => refuse(text),
            Content::Children(children) => children.iter().try_for_each(Self::check),
        }
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) {
        let mut put = |event: Event<'_>| writer.write_event(event).expect("writing to memory cannot fail");
        let mut start = BytesStart::new(self.name);
        for (name, value) in &self.attributes {
            start.push_attribute((*name, value.as_str()));
        }
        match &self.content {
            Content::Children(children) if children.is_empty() => put(Event::Empty(start)),
            Content::Children(children) => {
                put(Event::Start(start));
                for child in children {
                    child.write(writer);
                }
                writer.write_event(Event::End(BytesEnd::new(self.name))).expect("writing to memory cannot fail");
            }
            Content::Text(text) => {
                put(Event::Start(start));
                put(Event::Text(BytesText::new(text)));
                put(Event::End(BytesEnd::new(self.name)));
            }
        }
    }
}

/// XML 1.0, production 2, without the discouraged carriage return, which parsers fold into a line feed.
const fn may_stand_in_xml(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_texts_and_attributes_is_escaped_and_reads_back() {
        let hostile = r#"</title><devices a='1' b="2">&amp;"#;
        let element = Element::new("domain").attr("name", hostile).child(Element::with_text("title", hostile));
        let text = element.render().unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        assert_eq!(document.root_element().attribute("name"), Some(hostile));
        let titles: Vec<_> = document.root_element().children().filter(roxmltree::Node::is_element).collect();
        assert_eq!(titles.len(), 1, "nothing broke out: {text}");
        assert_eq!(titles[0].text(), Some(hostile));
    }

    #[test]
    fn a_character_that_xml_cannot_carry_is_refused() {
        let refused = Element::with_text("source", "a\u{1}b").render();
        assert_eq!(refused, Err(ForbiddenCharacter { element: "source".to_owned(), character: '\u{1}' }));
    }
}

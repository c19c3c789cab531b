//! Writes XML text: indented, escaped, nothing more.

use std::fmt::Write as _;

/// A document that grows from its declaration on.
pub(super) struct Xml {
    text: String,
    open: Vec<String>,
}

impl Xml {
    pub(super) fn new() -> Self {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        Self {
            text,
            open: Vec::new(),
        }
    }

    /// Opens an element and writes what `inside` writes into it.
    pub(super) fn node(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
        inside: impl FnOnce(&mut Self),
    ) {
        self.tag(name, attributes);
        self.text.push_str(">\n");
        self.open.push(name.to_owned());
        inside(self);
        self.open.pop();
        self.indent();
        let _ = writeln!(self.text, "</{name}>");
    }

    /// Elements within each other, the path's names separated by `/`.
    pub(super) fn path(&mut self, path: &str, inside: impl FnOnce(&mut Self)) {
        let names: Vec<&str> = path.split('/').collect();
        for name in &names {
            self.tag(name, &[]);
            self.text.push_str(">\n");
            self.open.push((*name).to_owned());
        }
        inside(self);
        for name in names.iter().rev() {
            self.open.pop();
            self.indent();
            let _ = writeln!(self.text, "</{name}>");
        }
    }

    /// An element with text; an empty one where there is none.
    pub(super) fn leaf(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.tag(name, attributes);
        if text.is_empty() {
            self.text.push_str("/>\n");
        } else {
            let _ = writeln!(self.text, ">{}</{name}>", escape(text));
        }
    }

    /// An element with a paragraph.
    pub(super) fn paragraph(&mut self, name: &str, text: &str) {
        self.node(name, &[], |xml| xml.leaf("P", &[], text));
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.indent();
        let _ = write!(self.text, "<{name}");
        for (attribute, value) in attributes {
            let _ = write!(self.text, " {attribute}=\"{}\"", escape(value));
        }
    }

    fn indent(&mut self) {
        self.text.extend(std::iter::repeat_n("  ", self.open.len()));
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

//! How a domain is known to be ours: its name, its UUID and the mark in its metadata.
//!
//! Nothing else says that a domain belongs to Berth; there is no list on the side that could be lost or go stale.

use berth_host::step::Mark;
use berth_model::{ClusterId, Epoch, Incarnation, Stamp, VmUid};
use roxmltree::Node;
use sha2::{Digest, Sha256};

use crate::element::Element;

/// The XML namespace of the mark.
pub const NAMESPACE: &str = "https://berth.dev/domain/1";

/// What every domain name of ours starts with.
pub const NAME_PREFIX: &str = "berth-";

/// The name of a VM's domain.
pub fn domain_name(vm: VmUid) -> String {
    format!("{NAME_PREFIX}{vm}")
}

/// The VM whose domain would have this name. A hint only: any domain may be called so.
pub fn vm_of_name(name: &str) -> Option<VmUid> {
    name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

/// The UUID of a VM's domain: the same wherever and whenever it is defined.
///
/// The first 16 bytes of SHA-256 over `berth/<cluster>/<vm>`, made a UUID of version 8.
pub fn domain_uuid(cluster: ClusterId, vm: VmUid) -> String {
    use std::fmt::Write as _;

    let digest = Sha256::digest(format!("berth/{cluster}/{vm}"));
    let mut bytes: [u8; 16] = digest[..16].try_into().expect("SHA-256 has 32 bytes");
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// What a domain carries in its metadata: the mark, and what was degraded when it was rendered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marked {
    /// Whose it is and by which placement it was started.
    pub mark: Mark,
    /// What its definition lacks on this host, a sentence each.
    pub degraded: Vec<String>,
    /// In what it runs otherwise than its definition says, a sentence each; none as long as nobody looked.
    pub differs: Option<Vec<String>>,
}

/// A mark of ours that cannot be read; such a domain is treated as foreign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// A field is missing.
    #[error("the mark has no {0}")]
    Missing(&'static str),
    /// A field does not parse.
    #[error("the mark's {field} is {value:?}: {why}")]
    Damaged {
        /// Which.
        field: &'static str,
        /// What it holds, shortened.
        value: String,
        /// Why that is wrong.
        why: String,
    },
}

impl Marked {
    pub(crate) fn element(&self) -> Element {
        let names = ["berth:vm", "berth:degraded", "berth:differs"];
        self.fill(Element::new(names[0]).attr("xmlns:berth", NAMESPACE), names[1], names[2])
    }

    /// The same as libvirt wants it when it is to replace what a domain carries: it adds the namespace itself.
    pub(crate) fn replacement(&self) -> Element {
        self.fill(Element::new("vm"), "degraded", "differs")
    }

    fn fill(&self, element: Element, degraded: &'static str, differs: &'static str) -> Element {
        let Mark { cluster, vm, project, name, stamp, restart_count } = &self.mark;
        let found = self.differs.iter().flatten();
        element
            .attr("cluster", cluster)
            .attr("uid", vm)
            .attr("project", project)
            .attr("name", name)
            .attr("incarnation", stamp.incarnation)
            .attr("epoch", stamp.epoch)
            .attr("restarts", restart_count)
            .attr_if(self.differs.is_some(), "read-back", "yes")
            .children(self.degraded.iter().map(|sentence| Element::with_text(degraded, sentence)))
            .children(found.map(|sentence| Element::with_text(differs, sentence)))
    }

    /// Reads the mark out of a `<domain>` element. `None` when there is none: the domain is foreign.
    pub fn read(domain: Node<'_, '_>) -> Option<Result<Self, MarkError>> {
        let vm = child(domain, "metadata")?.children().find(|node| node.has_tag_name((NAMESPACE, "vm")))?;
        Some(Self::read_vm(vm))
    }

    fn read_vm(vm: Node<'_, '_>) -> Result<Self, MarkError> {
        let mark = Mark {
            cluster: field(vm, "cluster")?,
            vm: field(vm, "uid")?,
            project: field(vm, "project")?,
            name: field(vm, "name")?,
            stamp: Stamp { incarnation: Incarnation(field(vm, "incarnation")?), epoch: Epoch(field(vm, "epoch")?) },
            restart_count: field(vm, "restarts")?,
        };
        let sentences = |name| -> Vec<String> {
            let of_that_name = vm.children().filter(|node| node.has_tag_name((NAMESPACE, name)));
            of_that_name.filter_map(|node| node.text().map(str::to_owned)).collect()
        };
        let is_read_back = vm.attribute("read-back") == Some("yes");
        Ok(Self { mark, degraded: sentences("degraded"), differs: is_read_back.then(|| sentences("differs")) })
    }
}

fn field<T>(vm: Node<'_, '_>, name: &'static str) -> Result<T, MarkError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let value = vm.attribute(name).ok_or(MarkError::Missing(name))?;
    value.parse().map_err(|error: T::Err| MarkError::Damaged {
        field: name,
        value: value.chars().take(80).collect(),
        why: error.to_string(),
    })
}

pub(crate) fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::testing;

    #[test]
    fn the_uuid_depends_on_cluster_and_vm_alone_and_is_of_version_8() {
        let uuid = |cluster: &str, vm: &str| domain_uuid(cluster.parse().unwrap(), vm.parse().unwrap());
        assert_eq!(uuid("c", "v"), uuid("c", "v"));
        assert_ne!(uuid("c", "v"), uuid("c", "w"));
        assert_ne!(uuid("c", "v"), uuid("d", "v"));
        let text = uuid("c", "v");
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'8');
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }

    #[test]
    fn a_mark_reads_back_as_it_was_written() {
        for differs in [None, Some(vec![]), Some(vec!["one queue".to_owned(), "a > b".to_owned()])] {
            let marked = Marked { mark: testing::mark(), degraded: vec!["a < b & \"c\"".to_owned()], differs };
            let metadata = Element::new("metadata").child(marked.element());
            let domain = Element::new("domain").child(metadata).render().unwrap();
            let document = roxmltree::Document::parse(&domain).unwrap();
            assert_eq!(Marked::read(document.root_element()), Some(Ok(marked)));
        }
    }

    #[test]
    fn a_domain_without_the_mark_is_foreign_and_a_damaged_mark_is_told_apart() {
        let read = |text: &str| {
            let document = roxmltree::Document::parse(text).unwrap();
            Marked::read(document.root_element())
        };
        assert_eq!(read("<domain/>"), None);
        assert_eq!(read("<domain><metadata><vm xmlns='https://else.where/1' cluster='c'/></metadata></domain>"), None);
        let damaged =
            read(&format!("<domain><metadata><x:vm xmlns:x='{NAMESPACE}' cluster='C C'/></metadata></domain>"));
        assert!(matches!(damaged, Some(Err(MarkError::Damaged { field: "cluster", .. }))), "{damaged:?}");
        let short = read(&format!("<domain><metadata><x:vm xmlns:x='{NAMESPACE}' cluster='c'/></metadata></domain>"));
        assert_eq!(short, Some(Err(MarkError::Missing("uid"))));
    }

    #[test]
    fn only_our_names_hint_at_a_vm() {
        assert_eq!(vm_of_name("berth-abc"), Some("abc".parse().unwrap()));
        assert_eq!(vm_of_name("berth-"), None);
        assert_eq!(vm_of_name("web"), None);
        assert_eq!(vm_of_name(&domain_name("abc".parse().unwrap())), Some("abc".parse().unwrap()));
    }
}

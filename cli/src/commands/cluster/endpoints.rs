//! Keeps the endpoints of a configuration that was made with the cluster, so that an operator reaches every controller
//! after the membership changed without editing a file.

use std::path::Path;

use berth_pki::bundle::KEPT_CONFIG;
use berth_proto::v1;

/// The text of a kept configuration with other endpoints; none if it is not ours to change, or nothing changes.
pub(super) fn renewed(text: &str, members: &[v1::Member]) -> Option<String> {
    if text.lines().next() != Some(KEPT_CONFIG) {
        return None;
    }
    let listed: Vec<String> = members.iter().map(|member| format!("{:?}", member.api_address)).collect();
    let line = format!("    endpoints: [{}]", listed.join(", "));
    let old = text.lines().find(|line| line.starts_with("    endpoints: ["))?;
    (old != line && !members.is_empty()).then(|| text.replacen(old, &line, 1))
}

/// Renews the file; says what was done, or what was not and why. A file of another making is left alone.
pub(super) fn keep(path: &Path, members: &[v1::Member]) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let new = renewed(&text, members)?;
    Some(match berth_pki::write_public(path, new.as_bytes()) {
        Ok(()) => format!("{} names the controllers as they are now", path.display()),
        Err(error) => format!("{} still names the controllers as they were: {error}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(addresses: &[&str]) -> Vec<v1::Member> {
        let member = |address: &&str| v1::Member { api_address: (*address).into(), ..v1::Member::default() };
        addresses.iter().map(member).collect()
    }

    #[test]
    fn only_a_configuration_that_was_made_with_the_cluster_is_renewed() {
        let body = "\ncurrent: berth\nclusters:\n  - name: berth\n    endpoints: [\"a:1\"]\n    ca: ca.pem\n";
        let kept = format!("{KEPT_CONFIG}{body}");
        let two = members(&["a:1", "b:1"]);
        assert_eq!(
            renewed(&kept, &two).unwrap(),
            kept.replace("[\"a:1\"]", "[\"a:1\", \"b:1\"]"),
            "everything else stays"
        );
        assert_eq!(renewed(&kept, &members(&["a:1"])), None);
        assert_eq!(renewed(&kept, &[]), None);
        assert_eq!(renewed(body, &two), None);
        assert_eq!(renewed(&format!("# mine\n{kept}"), &two), None);
    }
}

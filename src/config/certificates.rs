//! What a node's certificate calls it, and where its files are.

use std::path::{Path, PathBuf};

/// Where certificates of nodes live: no such domain exists outside.
const SUFFIX: &str = "jumpgate";
/// What stands for the node's id in a path: all nodes read the same configuration.
const NODE: &str = "{node}";
/// The longest label of a DNS name (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;
/// What the label of a name begins with that is no label by itself.
const HASHED: &str = "x--";
/// What the hash of such a name is derived for.
const CONTEXT: &str = "jumpgate 2026 certificates: names of nodes and clusters";
/// Bytes of that hash: nobody finds two names with the same.
const HASH_BYTES: usize = 16;

/// `path` with the node's id in its place.
pub(super) fn path(path: &Path, id: &str) -> PathBuf {
    match path.to_str() {
        Some(text) => PathBuf::from(text.replace(NODE, id)),
        None => path.to_owned(),
    }
}

/// The DNS name of the node called `id` in the cluster called `cluster`.
pub(super) fn name(id: &str, cluster: &str) -> String {
    format!("{}.{}.{SUFFIX}", label(id), label(cluster))
}

/// The DNS label for `name`: itself where it is one in lower case; its hash otherwise. DNS tells no capitals from small
/// letters and takes a dot for the end of a label, so two names could otherwise be one.
fn label(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = (1..=LABEL_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.starts_with(HASHED);
    if is_label {
        return name.to_owned();
    }
    let hash = blake3::derive_key(CONTEXT, name.as_bytes());
    let digits: String = hash[..HASH_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{HASHED}{digits}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_what_they_look_like_and_never_each_other() {
        assert_eq!(name("n1", "store"), "n1.store.jumpgate");
        assert_eq!(name("n1", "store-2"), "n1.store-2.jumpgate");
        // The form never changes: certificates of years ago carry it.
        assert_eq!(name("N1", "store"), "x--f868ccb2d98189959158af8a11ceaf31.store.jumpgate");
        let long = "a".repeat(64);
        let twins = [
            ("n1", "store"),
            ("N1", "store"),
            ("n1", "Store"),
            ("n1.store", "x"),
            ("n1", "store.x"),
            ("n_1", "store"),
            ("-n1", "store"),
            ("n1-", "store"),
            (long.as_str(), "store"),
            (".", "store"),
            ("..", "store"),
            (&label("N1"), "store"),
        ];
        let names: BTreeSet<String> = twins.iter().map(|(id, cluster)| name(id, cluster)).collect();
        assert_eq!(names.len(), twins.len(), "{names:?}");
        for name in &names {
            let labels: Vec<&str> = name.split('.').collect();
            assert_eq!(labels.len(), 3, "{name}");
            assert!(labels.iter().all(|label| label.len() <= LABEL_BYTES_MAX), "{name}");
            assert!(rustls::pki_types::DnsName::try_from(name.as_str()).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_path_names_its_node_wherever_it_likes() {
        let of = |text: &str| path(Path::new(text), "n1").display().to_string();
        assert_eq!(of("certs/{node}.pem"), "certs/n1.pem");
        assert_eq!(of("/run/{node}/{node}.key"), "/run/n1/n1.key");
        assert_eq!(of("certs/node.pem"), "certs/node.pem");
    }
}

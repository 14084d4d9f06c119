//! The reasons for which something is refused, as metrics name them.

/// Reasons that are shown even while nothing was refused for them, so that a rule about them can be written before there
/// is anything to see. `docs/interface.md` says what each means.
pub(super) const PULSE_REASONS: [&str; 19] = [
    "announcement_from_inside",
    "bad_checksum",
    "bad_code",
    "bad_magic",
    "impossible_sender",
    "malformed",
    "no_secret",
    "other_cluster",
    "other_generation",
    "other_incarnation",
    "other_slot",
    "other_version",
    "outside",
    "replayed",
    "too_large",
    "too_short",
    "trailing_bytes",
    "unauthenticated",
    "unencodable",
];
pub(super) const STREAM_REASONS: [&str; 36] = [
    "bad_certificate",
    "bad_checksum",
    "bad_code",
    "bad_handshake",
    "bad_magic",
    "certificate_expired",
    "certificate_foreign",
    "certificate_not_yet_valid",
    "certificate_other_node",
    "displaced",
    "half_frame",
    "impossible_sender",
    "malformed",
    "no_certificate",
    "no_first_frame",
    "no_proof",
    "no_secret",
    "other_cluster",
    "other_generation",
    "other_incarnation",
    "other_sender",
    "other_shard",
    "other_slot",
    "other_version",
    "outside",
    "secret_removed",
    "too_large",
    "too_short",
    "trailing_bytes",
    "unauthenticated",
    "unencodable",
    "unknown_sender",
    "unregistered_sender",
    "unsound_entry",
    "unsound_forward",
    "unsound_snapshot",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_to_users() {
        let page = include_str!("../../../docs/interface.md");
        for reason in PULSE_REASONS.iter().chain(&STREAM_REASONS) {
            assert!(page.contains(&format!("`{reason}`")), "docs/interface.md doesn't say what {reason} means");
        }
    }
}

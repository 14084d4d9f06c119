//! What is open at a gateway and to whom, in words for whoever starts it.

use tracing::{info, warn};

use crate::config::{Address, Config, NodeConfig};

/// Says to whom the gateway is open.
pub(super) fn tell_who_may_come(config: &Config, node: &NodeConfig) {
    let words = access_in_words(config, &node.bind_gateway);
    if config.security.tokens_file.is_none() && !node.bind_gateway.is_loopback() {
        warn!("{words}; set [security] tokens_file unless that is meant");
    } else {
        info!("{words}");
    }
}

/// What is open at a gateway, and to whom.
fn access_in_words(config: &Config, bound: &Address) -> String {
    let who = match (&config.security.tokens_file, bound.is_loopback()) {
        (Some(_), _) => "whoever has a token may come in",
        (None, true) => "everybody on this machine may read, write and operate the cluster",
        (None, false) => "EVERYBODY who reaches this address may read, write and operate the cluster",
    };
    let how = match (config.security.tls_cert.is_some(), config.speaks_http()) {
        (false, _) => "HTTP, unencrypted",
        (true, false) => "HTTPS",
        (true, true) => "HTTPS, and HTTP unencrypted",
    };
    format!("clients at {bound} ({how}): {who}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Ports;

    #[test]
    fn what_is_open_is_said_plainly() {
        let mut config = Config::loopback("x", &[Ports { pulse: 1, stream: 2, gateway: 3 }]);
        let local = config.nodes[0].bind_gateway.clone();
        let anywhere = Address { host: "0.0.0.0".to_owned(), port: 3 };
        assert_eq!(
            access_in_words(&config, &local),
            "clients at 127.0.0.1:3 (HTTP, unencrypted): everybody on this machine may read, write and operate the cluster"
        );
        assert!(access_in_words(&config, &anywhere).contains("EVERYBODY who reaches this address"));
        config.security.tokens_file = Some("tokens".into());
        config.security.tls_cert = Some("cert".into());
        assert_eq!(
            access_in_words(&config, &anywhere),
            "clients at 0.0.0.0:3 (HTTPS): whoever has a token may come in"
        );
        config.gateway.http = Some(true);
        assert!(access_in_words(&config, &anywhere).contains("(HTTPS, and HTTP unencrypted)"));
    }
}

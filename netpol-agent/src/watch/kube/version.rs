// SPDX-License-Identifier: Apache-2.0
//! What the version of the API server says about what it leaves out.

use std::time::Duration;

use kube::Client;

/// The first minor version that serves `endPort` without being told to.
const END_PORT_MINOR: u32 = 22;

/// Logs the server's version, once it answers.
pub(super) async fn report(client: Client) {
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                tracing::info!(version = version.git_version, "API server");
                if drops_end_port(&version.major, &version.minor) {
                    tracing::warn!(
                        version = version.git_version,
                        "the API server drops `endPort` (served by default since 1.22): a port range in a policy is \
                         seen as its first port only"
                    );
                }
                return;
            }
            Err(error) => tracing::debug!(%error, "the API server does not say its version yet"),
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// Whether a server of that version (`minor` may end in `+`) drops `endPort`.
fn drops_end_port(major: &str, minor: &str) -> bool {
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    matches!((number(major), number(minor)), (Some(1), Some(minor)) if minor < END_PORT_MINOR)
}

#[cfg(test)]
mod tests {
    use super::drops_end_port;

    #[test]
    fn t3_servers_that_drop_end_port() {
        for (major, minor, drops) in [
            ("1", "20", true),
            ("1", "21+", true),
            ("1", "22", false),
            ("1", "35", false),
            ("2", "0", false),
            ("", "", false),
        ] {
            assert_eq!(drops_end_port(major, minor), drops, "{major}.{minor}");
        }
    }
}

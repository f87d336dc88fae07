// SPDX-License-Identifier: Apache-2.0
//! Formats errors for people. An error says what was attempted. Its causes say why that failed, and
//! `Display` leaves them out.

use std::error::Error;

/// Joins an error and its causes, outermost first. Skips a cause that the error already mentions.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        datapath::{
            DatapathError,
            attach::{AttachError, Hook},
        },
        observe::socket,
    };

    #[test]
    fn each_cause_is_told_and_told_once() {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let hook = || AttachError::Hook {
            interface: "veth7".to_owned(),
            index: 7,
            hook: Hook::FromPod,
            attempt: "pin the link",
            source: Box::new(full()),
        };
        let said = "No space left on device (os error 28)";
        let table: [(Box<dyn Error>, String); 4] = [
            (Box::new(full()), said.to_owned()),
            (
                Box::new(DatapathError::Expiry(full())),
                format!("removing flows that are past their lifetime: {said}"),
            ),
            // This error mentions its cause, and so does the error that wraps it.
            (
                Box::new(hook()),
                format!("interface veth7 (index 7), from_pod: pin the link: {said}"),
            ),
            (
                Box::new(DatapathError::from(hook())),
                format!("interface veth7 (index 7), from_pod: pin the link: {said}"),
            ),
        ];
        for (error, expected) in table {
            assert_eq!(causes(&*error), expected);
        }
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_made_says_why() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = socket::bind(&file.path().join("folder/netpol.sock")).await;
        let said = causes(&error.unwrap_err());
        assert!(
            said.ends_with("(--socket): Not a directory (os error 20)"),
            "{said}"
        );
    }
}

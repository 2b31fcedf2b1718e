//! What is said at the door of a node's agent, before there is a session: the client shows tokens, and the agent says what
//! they let it capture. Each side says the preface and one frame; behind an admission the session follows, from its own
//! preface on.
//!
//! The client says nothing more before it has the answer.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    frame::{Frame, Payload},
    message::{json, parse, unknown},
};

const ADMITTED: u8 = 0x07;
const REFUSED: u8 = 0x08;
const CREDENTIALS: u8 = 0x88;

/// Most bytes that a client may say before it is admitted: a token has one or two KiB.
pub const MAX_CREDENTIALS: usize = 192 << 10;
/// Most tokens that a client may show, one for each namespace.
pub const MAX_TOKENS: usize = 64;

/// The service account whose token lets the pods of its namespace be captured.
pub const POD_ACCOUNT: &str = "sniff-capture";
/// The service account in the agent's namespace whose token lets all be captured that its node has.
pub const NODE_ACCOUNT: &str = "sniff-node";

/// How long a token may be good for, in seconds: the shortest that Kubernetes issues.
pub const TOKEN_SECONDS: u64 = 600;

/// Whom a token for a node's agent is meant for (`aud`): it is of no use at another node, or at the API server.
pub fn audience(node: &str) -> String {
    format!("sniff/{node}")
}

/// From the client.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Version of `kubectl sniff`.
    pub version: String,
    /// Tokens of service accounts, as the API server has issued them. No order.
    pub tokens: Vec<String>,
}

/// Without the tokens, which are secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials {{ version: {:?}, {} token(s) }}", self.version, self.tokens.len())
    }
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Come in: the session begins behind this.
    Admitted(Admitted),
    /// No; the connection ends.
    Refused(Refused),
}

/// What may be captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Namespaces whose pods may be, in order.
    pub namespaces: Vec<String>,
    /// Whether the node's interfaces may be, and with them the pods of all namespaces.
    pub node: bool,
}

/// Why nobody comes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What kind of reason.
    pub code: Refusal,
    /// One line: what is wrong, and what to do.
    pub message: String,
}

/// The kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// What was said is not as it should be.
    Malformed,
    /// A token is not one that the API server stands for, here and at this time.
    BadToken,
    /// A token was used before, or may have been: a new one may be good.
    UsedToken,
    /// A token is of an account that lets nothing be captured.
    WrongAccount,
    /// Too many come at once.
    Busy,
    /// The API server does not answer, or does not answer the agent.
    Unavailable,
    /// Anything else.
    #[serde(other)]
    Other,
}

impl Frame for Credentials {
    fn payload(&self) -> (u8, Payload<'_>) {
        (CREDENTIALS, json(self))
    }

    fn from_payload(kind: u8, payload: Bytes) -> Result<Self, String> {
        match kind {
            CREDENTIALS => parse(kind, &payload),
            _ => Err(unknown(kind)),
        }
    }
}

impl Frame for Answer {
    fn payload(&self) -> (u8, Payload<'_>) {
        match self {
            Self::Admitted(admitted) => (ADMITTED, json(admitted)),
            Self::Refused(refused) => (REFUSED, json(refused)),
        }
    }

    fn from_payload(kind: u8, payload: Bytes) -> Result<Self, String> {
        Ok(match kind {
            ADMITTED => Self::Admitted(parse(kind, &payload)?),
            REFUSED => Self::Refused(parse(kind, &payload)?),
            _ => return Err(unknown(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Broken, Decoder, PREFACE, encode};

    #[test]
    fn what_is_said_at_a_door_is_said_nowhere_else_and_leaves_the_session_to_others() {
        let credentials = Credentials { version: "1".into(), tokens: vec!["secret".into()] };
        let mut stream = PREFACE.to_vec();
        encode(&credentials, &mut stream).unwrap();
        let mut door = Decoder::<Answer>::new();
        door.push(&stream);
        assert!(matches!(door.next(), Err(Broken::Malformed(_))));

        let admitted = Answer::Admitted(Admitted { namespaces: vec!["shop".into()], node: false });
        let mut stream = PREFACE.to_vec();
        encode(&admitted, &mut stream).unwrap();
        stream.extend(PREFACE);
        let mut door = Decoder::new();
        door.push(&stream);
        assert_eq!(door.next(), Ok(Some(admitted)));
        assert_eq!(door.rest(), &PREFACE[..]);
    }

    #[test]
    fn tokens_are_not_shown() {
        let credentials = Credentials { version: "1".into(), tokens: vec!["secret".into()] };
        assert_eq!(format!("{credentials:?}"), "Credentials { version: \"1\", 1 token(s) }");
    }

    #[test]
    fn a_newer_agent_is_understood() {
        assert_eq!(serde_json::from_str::<Refusal>(r#""out-of-luck""#).unwrap(), Refusal::Other);
    }
}

//! Coming in by the door of a node's agent: the tokens that it takes, and the way there.

use std::{collections::BTreeSet, fmt, time::Duration};

use anyhow::{Result, anyhow, bail};
use futures_util::future::{join, join_all};
use sniff_kubernetes::{Account, Cluster, Forbidden, NoAccount, Piece, Process, Token, own::SniffPod};
use sniff_protocol::{
    Decoder, PREFACE,
    door::{
        Admitted, Answer, Credentials, NODE_ACCOUNT, POD_ACCOUNT, Refusal, Refused, TOKEN_SECONDS, audience,
    },
    encode,
};
use tokio::time::{sleep, timeout};

/// How long the agent may take to have tokens reviewed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before another token is asked for: one that was issued within the same second may be the same.
const PAUSE: Duration = Duration::from_millis(1100);

/// What a session is to capture, now or later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Pods of these namespaces.
    pub namespaces: BTreeSet<String>,
    /// Whether pods of any others may join.
    pub any_namespace: bool,
    /// Whether interfaces of the node are.
    pub node: bool,
}

/// A pod with a door, and its node.
#[derive(Clone, Copy, Debug)]
pub struct Door<'a> {
    /// The pod.
    pub pod: &'a SniffPod,
    /// Its port.
    pub port: u16,
    /// Its node.
    pub node: &'a str,
}

/// The agent has not let this user in.
#[derive(Debug)]
struct NotLetIn(Refused);

impl fmt::Display for NotLetIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for NotLetIn {}

/// Whether somebody was kept out for want of a right, as by another way he may not be.
pub fn lacks_right(error: &anyhow::Error) -> bool {
    error.is::<Forbidden>() || error.is::<NoAccount>()
}

/// Whether the agent does not let this user in, and will not later.
pub fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NotLetIn>().is_some_and(|not| match not.0.code {
        Refusal::UsedToken | Refusal::Busy | Refusal::Unavailable => false,
        Refusal::Malformed | Refusal::BadToken | Refusal::WrongAccount | Refusal::Other => true,
    })
}

/// Comes in; what follows is the session.
///
/// # Errors
///
/// When a right is missing ([`lacks_right`]), nobody answers, or the agent does not let this user in.
pub async fn enter(cluster: &Cluster, door: Door<'_>, wanted: &Wanted) -> Result<(Process, Admitted)> {
    let entered = knock(cluster, door, wanted).await;
    let is_used = |error: &anyhow::Error| {
        error.downcast_ref::<NotLetIn>().is_some_and(|not| not.0.code == Refusal::UsedToken)
    };
    match entered {
        Err(error) if is_used(&error) => {
            sleep(PAUSE).await;
            knock(cluster, door, wanted).await
        }
        entered => entered,
    }
}

async fn knock(cluster: &Cluster, door: Door<'_>, wanted: &Wanted) -> Result<(Process, Admitted)> {
    let Door { pod: SniffPod { namespace, name, .. }, port, node } = door;
    // Each takes a while, and neither needs the other.
    let (tokens, process) =
        join(tokens(cluster, namespace, node, wanted), cluster.forward(namespace, name, port)).await;
    let tokens = tokens?.into_iter().map(|Token(token)| token).collect();
    let mut process = process?;
    let credentials = Credentials { version: env!("CARGO_PKG_VERSION").to_owned(), tokens };
    let mut first = PREFACE.to_vec();
    encode(&credentials, &mut first)?;
    let answer = async {
        process.input.write(&first).await?;
        let mut decoder = Decoder::<Answer>::new();
        loop {
            match process.output.next().await? {
                Some(Piece::Stdout(bytes)) => decoder.push(&bytes),
                Some(Piece::Stderr(_)) => {}
                Some(Piece::Ended(Err(why))) => bail!("nobody answers at its door: {why}"),
                Some(Piece::Ended(Ok(()))) | None => bail!("its door was closed without a word"),
            }
            if let Some(answer) = decoder.next()? {
                return Ok((answer, decoder.rest()));
            }
        }
    };
    let answer = timeout(PATIENCE, answer).await;
    match answer.map_err(|_| anyhow!("nobody answers at its door for {} s", PATIENCE.as_secs()))?? {
        (Answer::Admitted(admitted), rest) => {
            process.output.unread(rest);
            Ok((process, admitted))
        }
        (Answer::Refused(refused), _) => Err(NotLetIn(refused).into()),
    }
}

/// The tokens that let what is wanted be captured, or at least some of it.
///
/// That of the node lets all be captured, so it is asked for where more is wanted than can be named, and where those of
/// namespaces are not to be had.
async fn tokens(cluster: &Cluster, sniffs: &str, node: &str, wanted: &Wanted) -> Result<Vec<Token>> {
    let audience = audience(node);
    let of_node = issue(cluster, &audience, sniffs, NODE_ACCOUNT);
    if wanted.node {
        return Ok(vec![of_node.await?]);
    }
    let of_namespaces = of_namespaces(cluster, &audience, &wanted.namespaces);
    if wanted.any_namespace {
        return match of_node.await {
            Ok(token) => Ok(vec![token]),
            Err(error) if wanted.namespaces.is_empty() || !lacks_right(&error) => Err(error),
            Err(_) => of_namespaces.await.0,
        };
    }
    match of_namespaces.await {
        (tokens, true) => of_node.await.map(|token| vec![token]).or(tokens),
        (tokens, false) => tokens,
    }
}

/// The tokens of those namespaces for which they are to be had, an error when there is none, and whether rights to some are
/// missing.
async fn of_namespaces(
    cluster: &Cluster,
    audience: &str,
    namespaces: &BTreeSet<String>,
) -> (Result<Vec<Token>>, bool) {
    let issued =
        join_all(namespaces.iter().map(|namespace| issue(cluster, audience, namespace, POD_ACCOUNT)));
    let (mut tokens, mut missing) = (Vec::new(), None);
    for token in issued.await {
        match token {
            Ok(token) => tokens.push(token),
            Err(error) if lacks_right(&error) => missing = missing.or(Some(error)),
            Err(error) => return (Err(error), false),
        }
    }
    match missing {
        Some(error) if tokens.is_empty() => (Err(error), true),
        missing => (Ok(tokens), missing.is_some()),
    }
}

async fn issue(cluster: &Cluster, audience: &str, namespace: &str, name: &str) -> Result<Token> {
    let account = Account { namespace: namespace.to_owned(), name: name.to_owned() };
    cluster.issue_token(&account, audience, TOKEN_SECONDS).await
}

//! What tokens let whoever shows them capture. Nothing here knows of connections.
//!
//! What is believed is what the API server says of a token. What the token says of itself only saves asking about those
//! that cannot be good.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use sha2::{Digest as _, Sha256};
use sniff_kubernetes::{Account, Claims, Reviewed, signed};
use sniff_protocol::door::{
    Credentials, MAX_TOKENS, NODE_ACCOUNT, POD_ACCOUNT, Refusal, Refused, TOKEN_SECONDS, audience,
};
use tokio::time::Instant;

use super::wire::Remit;

/// Most tokens that are remembered.
const MAX_USED: usize = 16 << 10;

/// Who knows whether a token is good.
pub(super) trait Reviewer: Sync {
    /// What the API server says of a token, for an audience; `None` when it does not stand for it.
    fn review(&self, token: &str, audience: &str) -> impl Future<Output = Result<Option<Reviewed>>> + Send;
}

/// Who decides.
pub(super) struct Judge {
    /// Whom tokens must be meant for.
    audience: String,
    /// The agent's own namespace.
    namespace: String,
    /// When it began to remember which tokens were used: seconds since 1970.
    since: u64,
    /// Digests of what is signed of the tokens that were used, and until when each may be good. A token cannot outlive its
    /// first use by more than its whole life, whatever the clocks show.
    used: Mutex<HashMap<[u8; 32], Instant>>,
}

/// What somebody may capture, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// What.
    pub remit: Remit,
    /// By the tokens of these.
    pub shown: Vec<Shown>,
}

/// A token that was good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is.
    pub account: Account,
    /// Its id where the API server tells that, otherwise the start of the SHA-256 of what is signed of it.
    pub id: String,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (token {})", self.account, self.id)
    }
}

/// A token that may be good.
struct Candidate<'a> {
    token: &'a str,
    claims: Claims,
    account: Account,
    digest: [u8; 32],
}

impl Judge {
    /// One for the agent of a node, which runs in a namespace and remembers `since`.
    pub(super) fn new(node: &str, namespace: String, since: u64) -> Self {
        Self { audience: audience(node), namespace, since, used: Mutex::default() }
    }

    /// What the tokens let be captured. Those that are good are used by that, all or none.
    ///
    /// # Errors
    ///
    /// When one of them is not good, or there is none; says which right is missing.
    pub(super) async fn judge(
        &self,
        credentials: &Credentials,
        reviewer: &impl Reviewer,
    ) -> Result<Authority, Refused> {
        let tokens = &credentials.tokens;
        if tokens.is_empty() {
            return Err(refused(Refusal::BadToken, format!("no token is shown: {}", self.needed())));
        }
        if tokens.len() > MAX_TOKENS {
            let why = format!("{} tokens: {MAX_TOKENS} namespaces may be named at once", tokens.len());
            return Err(refused(Refusal::Malformed, why));
        }
        let candidates = tokens.iter().map(|token| self.look_at(token)).collect::<Result<Vec<_>, _>>()?;
        let mut shown = Vec::new();
        for candidate in &candidates {
            let reviewed = reviewer.review(candidate.token, &self.audience).await.map_err(|error| {
                let why = format!("sniff's agent cannot have tokens reviewed by the API server: {error:#}");
                refused(Refusal::Unavailable, why)
            })?;
            shown.push(self.stands(candidate, reviewed)?);
        }
        self.use_up(&candidates)?;
        let of_pods = shown.iter().map(|it| &it.account).filter(|account| account.name == POD_ACCOUNT);
        let namespaces: BTreeSet<String> = of_pods.map(|account| account.namespace.clone()).collect();
        let node = shown.iter().any(|it| it.account.name == NODE_ACCOUNT);
        Ok(Authority { remit: Remit { namespaces, node, sniff_namespace: self.namespace.clone() }, shown })
    }

    /// What can be told of a token without asking anybody.
    fn look_at<'a>(&self, token: &'a str) -> Result<Candidate<'a>, Refused> {
        let bad = |why: String| refused(Refusal::BadToken, why);
        let claims = Claims::of(token).map_err(|error| bad(format!("a token is no good: {error:#}")))?;
        if !claims.audiences.contains(&self.audience) {
            let theirs = claims.audiences.join(", ");
            return Err(bad(format!("a token is meant for {theirs}, and not for {}", self.audience)));
        }
        let account = Account::of_user(&claims.user).filter(|account| self.opens(account));
        let account = account.ok_or_else(|| {
            let why = format!("a token of {} lets nothing be captured: {}", claims.user, self.needed());
            refused(Refusal::WrongAccount, why)
        })?;
        let lifetime = claims.expires_at - claims.issued_at;
        if lifetime > TOKEN_SECONDS {
            return Err(bad(format!(
                "a token of {account} is good for {lifetime} s: ask for one of {TOKEN_SECONDS} s"
            )));
        }
        if claims.issued_at < self.since {
            let why = format!(
                "a token of {account} was issued before sniff's agent on this node started, which cannot know whether it \
                 was used: ask for a new one"
            );
            return Err(refused(Refusal::UsedToken, why));
        }
        let digest = Sha256::digest(signed(token)).into();
        if self.is_used(&digest) {
            return Err(was_used(&account));
        }
        Ok(Candidate { token, claims, account, digest })
    }

    /// Whether an account lets anything be captured.
    fn opens(&self, Account { namespace, name }: &Account) -> bool {
        name == POD_ACCOUNT || name == NODE_ACCOUNT && *namespace == self.namespace
    }

    /// Which rights let something be captured.
    fn needed(&self) -> String {
        format!(
            "it takes the right to create serviceaccounts/token named {POD_ACCOUNT} in the pods' namespace, or, for the node's \
             interfaces, named {NODE_ACCOUNT} in namespace {}",
            self.namespace
        )
    }

    /// Whether the API server stands for what a token says.
    fn stands(&self, candidate: &Candidate<'_>, reviewed: Option<Reviewed>) -> Result<Shown, Refused> {
        let Candidate { claims, account, digest, .. } = candidate;
        let Some(Reviewed { user, audiences, id }) = reviewed else {
            let why = format!(
                "the API server does not stand for a token of {account}: it has expired, is not one of its own, or the account \
                 is gone"
            );
            return Err(refused(Refusal::BadToken, why));
        };
        // A server that knows of no audiences names none, and then means its own.
        if !audiences.contains(&self.audience) || user != claims.user {
            let why = format!(
                "the API server does not say that a token of {account} is meant for {}",
                self.audience
            );
            return Err(refused(Refusal::BadToken, why));
        }
        let start = || digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Shown { account: account.clone(), id: id.unwrap_or_else(start) })
    }

    fn is_used(&self, digest: &[u8; 32]) -> bool {
        self.used().contains_key(digest)
    }

    /// Notes that tokens are used; none of them when one is already.
    fn use_up(&self, candidates: &[Candidate<'_>]) -> Result<(), Refused> {
        let mut used = self.used();
        let now = Instant::now();
        used.retain(|_, until| now <= *until);
        if used.len() + candidates.len() > MAX_USED {
            return Err(refused(
                Refusal::Busy,
                "too many sessions have begun here lately: try again".to_owned(),
            ));
        }
        let mut seen = BTreeSet::new();
        let again = candidates.iter().find(|it| used.contains_key(&it.digest) || !seen.insert(it.digest));
        if let Some(Candidate { account, .. }) = again {
            return Err(was_used(account));
        }
        used.extend(candidates.iter().map(|Candidate { claims, digest, .. }| {
            (*digest, now + Duration::from_secs(claims.expires_at - claims.issued_at))
        }));
        Ok(())
    }

    fn used(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn was_used(account: &Account) -> Refused {
    let why =
        format!("a token of {account} was used before: each is good for one session, ask for a new one");
    refused(Refusal::UsedToken, why)
}

pub(super) fn refused(code: Refusal, message: String) -> Refused {
    Refused { code, message }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    const SINCE: u64 = 1_000;
    const HERE: &str = "sniff/n1";
    const SHOP: &str = "system:serviceaccount:shop:sniff-capture";
    const BANK: &str = "system:serviceaccount:bank:sniff-capture";
    const NODE: &str = "system:serviceaccount:tools:sniff-node";

    /// A token of a user for an audience, and its signature.
    fn token(user: &str, audience: &str, issued_at: u64, seconds: u64, signature: &str) -> String {
        let claims = format!(
            r#"{{"aud":["{audience}"],"sub":"{user}","iat":{issued_at},"exp":{}}}"#,
            issued_at + seconds
        );
        format!("e30.{}.{signature}", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    fn of(user: &str) -> String {
        token(user, HERE, 2_000, 600, "good")
    }

    fn judge() -> Judge {
        Judge::new("n1", "tools".into(), SINCE)
    }

    /// An API server that stands for what has a signature that begins with `good`.
    fn server(token: &str, audience: &str) -> Result<Option<Reviewed>> {
        let claims = Claims::of(token)?;
        let is_good = token.rsplit('.').next().is_some_and(|it| it.starts_with("good"));
        let audiences = claims.audiences.into_iter().filter(|it| it == audience).collect();
        Ok(is_good.then_some(Reviewed { user: claims.user, audiences, id: Some("JTI=1".into()) }))
    }

    /// A server that says this, after a while.
    struct Says<F>(F);

    impl<F: Fn(&str, &str) -> Result<Option<Reviewed>> + Sync> Reviewer for Says<F> {
        async fn review(&self, token: &str, audience: &str) -> Result<Option<Reviewed>> {
            tokio::task::yield_now().await;
            self.0(token, audience)
        }
    }

    async fn ask(judge: &Judge, tokens: &[String]) -> Result<Authority, Refused> {
        judge.judge(&Credentials { version: "test".into(), tokens: tokens.to_vec() }, &Says(server)).await
    }

    #[tokio::test]
    async fn what_tokens_let_be_captured() {
        let in_shop = ["shop"].as_slice();
        for (what, tokens, namespaces, node) in [
            ("own namespace", vec![of(SHOP)], in_shop, false),
            ("two namespaces", vec![of(SHOP), of(BANK)], &["bank", "shop"], false),
            ("the node", vec![of(NODE)], &[], true),
            ("the node and a namespace", vec![of(NODE), of(SHOP)], in_shop, true),
            ("issued as the agent began", vec![token(SHOP, HERE, SINCE, 600, "good")], in_shop, false),
            (
                "a second token of one namespace",
                vec![of(SHOP), token(SHOP, HERE, 2_001, 600, "good")],
                in_shop,
                false,
            ),
            ("the agent's own namespace", vec![of(&SHOP.replace("shop", "tools"))], &["tools"], false),
        ] {
            let authority = ask(&judge(), &tokens).await.unwrap_or_else(|why| panic!("{what}: {why:?}"));
            assert_eq!(authority.remit.node, node, "{what}");
            assert!(authority.remit.namespaces.iter().eq(namespaces), "{what}: {authority:?}");
            assert_eq!(authority.shown.len(), tokens.len(), "{what}");
        }
    }

    #[tokio::test]
    async fn what_tokens_do_not_let_be_captured() {
        let rights = "named sniff-capture in the pods' namespace, or, for the node's interfaces, named sniff-node in namespace tools";
        let elsewhere = token(SHOP, "sniff/n2", 2_000, 600, "good");
        let for_server = token(SHOP, "https://kubernetes.default.svc", 2_000, 600, "good");
        let alike = token(SHOP, "sniff/n1x", 2_000, 600, "good");
        let early = token(SHOP, HERE, SINCE - 1, 600, "good");
        let many: Vec<String> =
            (0..=MAX_TOKENS as u64).map(|at| token(SHOP, HERE, 2_000 + at, 600, "good")).collect();
        let backwards = BASE64URL_NOPAD.encode(br#"{"aud":"sniff/n1","sub":"x","iat":9,"exp":8}"#);
        let backwards = format!("e30.{backwards}.good");
        let user = |user: &str| vec![of(user)];
        for (what, tokens, code, words) in [
            ("no token", vec![], Refusal::BadToken, rights),
            ("an empty token", vec![String::new()], Refusal::BadToken, "three parts"),
            ("garbage", vec!["a.!.c".into()], Refusal::BadToken, "not in base64"),
            ("a token of four parts", vec![of(SHOP) + ".x"], Refusal::BadToken, "three parts"),
            ("not signed", vec![token(SHOP, HERE, 2_000, 600, "")], Refusal::BadToken, "does not stand for"),
            (
                "forged",
                vec![token(SHOP, HERE, 2_000, 600, "bad")],
                Refusal::BadToken,
                "has expired, is not one",
            ),
            ("another node's", vec![elsewhere], Refusal::BadToken, "for sniff/n2, and not for sniff/n1"),
            ("the API server's", vec![for_server], Refusal::BadToken, "and not for sniff/n1"),
            ("an audience that begins alike", vec![alike], Refusal::BadToken, "and not for sniff/n1"),
            (
                "good for too long",
                vec![token(SHOP, HERE, 2_000, 601, "good")],
                Refusal::BadToken,
                "ask for one of 600 s",
            ),
            (
                "issued before the agent began",
                vec![early],
                Refusal::UsedToken,
                "before sniff's agent on this node",
            ),
            ("over before it began", vec![backwards], Refusal::BadToken, "expires before"),
            ("a person's", user("jane"), Refusal::WrongAccount, rights),
            ("another account", user("system:serviceaccount:shop:default"), Refusal::WrongAccount, rights),
            ("an account that begins alike", user(&format!("{SHOP}-2")), Refusal::WrongAccount, rights),
            (
                "a node's account elsewhere",
                user("system:serviceaccount:shop:sniff-node"),
                Refusal::WrongAccount,
                rights,
            ),
            ("an account that is none", user(&format!("{SHOP}:x")), Refusal::WrongAccount, rights),
            (
                "an account without a namespace",
                user("system:serviceaccount::sniff-capture"),
                Refusal::WrongAccount,
                rights,
            ),
            ("a group", user("system:serviceaccounts:shop"), Refusal::WrongAccount, rights),
            ("one good, one of another account", vec![of(SHOP), of("jane")], Refusal::WrongAccount, rights),
            (
                "one good, one forged",
                vec![of(SHOP), token(BANK, HERE, 2_000, 600, "bad")],
                Refusal::BadToken,
                "of system:serviceaccount:bank",
            ),
            ("one twice", vec![of(SHOP), of(SHOP)], Refusal::UsedToken, "was used before"),
            ("one for each of too many", many, Refusal::Malformed, "64 namespaces"),
        ] {
            let refused = ask(&judge(), &tokens).await.expect_err(what);
            assert_eq!(refused.code, code, "{what}: {refused:?}");
            assert!(refused.message.contains(words), "{what}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn a_token_is_good_for_one_session_however_it_is_written() {
        let judge = judge();
        let bad = token(BANK, HERE, 2_000, 600, "bad");
        ask(&judge, &[of(SHOP), bad]).await.expect_err("one is bad");
        ask(&judge, &[of(SHOP)]).await.expect("the other was not used by that");
        for again in [of(SHOP), token(SHOP, HERE, 2_000, 600, "good-as-well")] {
            let refused = ask(&judge, &[again]).await.expect_err("used");
            assert_eq!(refused.code, Refusal::UsedToken);
            assert!(refused.message.contains("ask for a new one"), "{refused:?}");
        }
        ask(&judge, &[of(BANK), of(SHOP)]).await.expect_err("one of them is used");
        ask(&judge, &[of(BANK)]).await.expect("this one is not");
    }

    #[tokio::test]
    async fn one_of_two_at_once_gets_in() {
        let judge = judge();
        let tokens = [of(SHOP)];
        let (one, other) = tokio::join!(ask(&judge, &tokens), ask(&judge, &tokens));
        let refused = one.and(other).expect_err("both");
        assert_eq!(refused.code, Refusal::UsedToken);
    }

    #[tokio::test]
    async fn a_server_must_say_whose_a_token_is_and_whom_it_is_meant_for() {
        let good = Reviewed { user: SHOP.into(), audiences: vec![HERE.into()], id: None };
        for (what, reviewed) in [
            ("no audience", Reviewed { audiences: vec![], ..good.clone() }),
            ("another audience", Reviewed { audiences: vec!["sniff/n2".into()], ..good.clone() }),
            ("another user", Reviewed { user: BANK.into(), ..good.clone() }),
            ("no user", Reviewed { user: String::new(), ..good.clone() }),
        ] {
            let credentials = Credentials { version: "test".into(), tokens: vec![of(SHOP)] };
            let refused = judge()
                .judge(&credentials, &Says(|_: &str, _: &str| Ok(Some(reviewed.clone()))))
                .await
                .expect_err(what);
            assert_eq!(refused.code, Refusal::BadToken, "{what}");
        }
        let credentials = Credentials { version: "test".into(), tokens: vec![of(SHOP)] };
        let refused = judge()
            .judge(&credentials, &Says(|_: &str, _: &str| anyhow::bail!("away")))
            .await
            .expect_err("no server");
        assert_eq!(refused.code, Refusal::Unavailable);
        let shown = judge()
            .judge(&credentials, &Says(|_: &str, _: &str| Ok(Some(good.clone()))))
            .await
            .expect("good")
            .shown;
        assert_eq!(shown[0].id.len(), 16, "without an id its digest stands for it");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_remembered_for_their_whole_life_and_bounded_in_number() {
        let judge = judge();
        ask(&judge, &[of(SHOP)]).await.expect("good");
        tokio::time::advance(Duration::from_secs(599)).await;
        ask(&judge, &[of(SHOP)]).await.expect_err("used");
        tokio::time::advance(Duration::from_secs(2)).await;
        ask(&judge, &[of(BANK)]).await.expect("good");
        assert_eq!(judge.used().len(), 1, "the first is over");
        let later = Instant::now() + Duration::from_secs(600);
        judge.used().extend((1..MAX_USED as u64).map(|at| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&at.to_le_bytes());
            (digest, later)
        }));
        assert_eq!(ask(&judge, &[of(NODE)]).await.expect_err("full").code, Refusal::Busy);
    }
}

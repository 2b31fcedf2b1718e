//! Tokens of service accounts: asked for by whoever may act for an account, and reviewed by whoever they are shown to.
//!
//! A token is a JSON Web Token (RFC 7519) that the API server signs. Its audience (`aud`) is whom it is meant for; it is
//! of no use to others.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec},
    core::v1,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde::Deserialize;

use crate::{Cluster, Request};

/// Most bytes of a name in a token, and most audiences that it may have.
const MAX_NAME: usize = 512;
const MAX_AUDIENCES: usize = 8;
/// What a review tells of the token's id, from Kubernetes 1.29 on.
const TOKEN_ID: &str = "authentication.kubernetes.io/credential-id";

/// A token, which is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// As RBAC names the user that it is.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "system:serviceaccount:{namespace}:{name}")
    }
}

impl Account {
    /// The account that a user is, if it is one.
    pub fn of_user(user: &str) -> Option<Self> {
        let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let is_whole = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
        is_whole.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// A namespace has no such account.
#[derive(Debug)]
pub struct NoAccount(Account);

impl fmt::Display for NoAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account { namespace, name } = &self.0;
        write!(
            f,
            "there is no service account {name} in namespace {namespace}: whoever rules that namespace makes one"
        )
    }
}

impl std::error::Error for NoAccount {}

/// What a token says of itself. Nobody has looked at its signature: it is believed once the API server stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whom it is meant for.
    pub audiences: Vec<String>,
    /// The user that it is of.
    pub user: String,
    /// When it was issued, and when it expires: seconds since 1970.
    pub issued_at: u64,
    /// See [`Self::issued_at`].
    pub expires_at: u64,
}

/// A JWT's claims as they are written.
#[derive(Deserialize)]
struct Written {
    aud: OneOrMany,
    sub: String,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// Those of a token.
    ///
    /// # Errors
    ///
    /// When it is no token of a service account.
    pub fn of(token: &str) -> Result<Self> {
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            anyhow::bail!("it has not the three parts of a token");
        };
        let json = BASE64URL_NOPAD.decode(claims.as_bytes()).context("its claims are not in base64")?;
        let Written { aud, sub, iat, exp } =
            serde_json::from_slice(&json).context("its claims are not those of a service account's token")?;
        ensure!(iat <= exp, "it expires before it is issued");
        let audiences = match aud {
            OneOrMany::One(audience) => vec![audience],
            OneOrMany::Many(audiences) => audiences,
        };
        let is_short = audiences.iter().chain([&sub]).all(|name| name.len() <= MAX_NAME);
        ensure!(is_short && audiences.len() <= MAX_AUDIENCES, "its claims are too long");
        Ok(Self { audiences, user: sub, issued_at: iat, expires_at: exp })
    }
}

/// What is signed of a token. It is what tells two tokens apart: one signature can be written in several ways.
pub fn signed(token: &str) -> &str {
    token.rsplit_once('.').map_or(token, |(signed, _)| signed)
}

/// A token that the API server stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// The user that it is of.
    pub user: String,
    /// Of the audiences that it was reviewed for, those that it is meant for.
    pub audiences: Vec<String>,
    /// Its id, where the server tells that.
    pub id: Option<String>,
}

impl Cluster {
    /// Has a token issued for a service account, which is good for `audience` alone.
    ///
    /// # Errors
    ///
    /// When this user may not, [`NoAccount`] when there is no such account, or the server does not answer.
    pub async fn issue_token(&self, account: &Account, audience: &str, seconds: u64) -> Result<Token> {
        let Account { namespace, name } = account;
        let request = Request {
            verb: "create",
            resource: "serviceaccounts/token",
            namespace: Some(namespace),
            name: Some(name),
        };
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(i64::try_from(seconds)?),
            bound_object_ref: None,
        };
        let api = Api::<v1::ServiceAccount>::namespaced(self.client.clone(), namespace);
        let wanted = TokenRequest { spec, ..TokenRequest::default() };
        let issued =
            self.ask(request, api.create_token_request(name, &PostParams::default(), &wanted)).await?;
        let issued = issued.ok_or_else(|| NoAccount(account.clone()))?;
        let token = issued.status.map(|status| status.token).filter(|token| !token.is_empty());
        token.map(Token).with_context(|| format!("the server issues no token for {account}"))
    }

    /// The namespaces with a service account of this name.
    ///
    /// # Errors
    ///
    /// When this user may not list them, or the server does not answer.
    pub async fn namespaces_with_account(&self, name: &str) -> Result<Vec<String>> {
        let request = Request { verb: "list", resource: "serviceaccounts", namespace: None, name: None };
        let api = Api::<v1::ServiceAccount>::all(self.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let accounts = self.ask(request, api.list(&named)).await?;
        Ok(accounts.into_iter().flatten().filter_map(|account| account.metadata.namespace).collect())
    }

    /// Asks whether a token is good for `audience` (TokenReview); `None` when it is not.
    ///
    /// # Errors
    ///
    /// When this user may not ask, or the server does not answer.
    pub async fn review_token(&self, token: &str, audience: &str) -> Result<Option<Reviewed>> {
        let request = Request {
            verb: "create",
            resource: "tokenreviews.authentication.k8s.io",
            namespace: None,
            name: None,
        };
        let spec =
            TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api = Api::<TokenReview>::all(self.client.clone());
        let answer = self.ask(request, api.create(&PostParams::default(), &review)).await?;
        let status = answer.and_then(|review| review.status).context("the server reviews no tokens")?;
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        let user = status.user.unwrap_or_default();
        let id = user.extra.unwrap_or_default().remove(TOKEN_ID).and_then(|ids| ids.into_iter().next());
        Ok(Some(Reviewed {
            user: user.username.unwrap_or_default(),
            audiences: status.audiences.unwrap_or_default(),
            id,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    #[test]
    fn claims_are_read_and_garbage_is_not() {
        let claims =
            Claims::of(&token(r#"{"aud":["sniff/n1"],"sub":"u","iat":5,"exp":605,"jti":"x"}"#)).unwrap();
        assert_eq!((claims.user.as_str(), claims.issued_at, claims.expires_at), ("u", 5, 605));
        assert_eq!(Claims::of(&token(r#"{"aud":"a","sub":"u","iat":5,"exp":6}"#)).unwrap().audiences, ["a"]);
        let backwards = token(r#"{"aud":"a","sub":"u","iat":7,"exp":6}"#);
        let long = token(&format!(r#"{{"aud":"a","sub":"{}","iat":5,"exp":6}}"#, "x".repeat(MAX_NAME + 1)));
        let many = token(&format!(r#"{{"aud":{:?},"sub":"u","iat":5,"exp":6}}"#, ["a"; MAX_AUDIENCES + 1]));
        for bad in [&long, &many] {
            assert!(Claims::of(bad).unwrap_err().to_string().contains("too long"));
        }
        for bad in ["", "a.b", "a.b.c.d", "a.!.c", "a.e30.c", &token("[]"), &backwards] {
            assert!(Claims::of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_account_is_told_from_other_users() {
        let account = Account::of_user("system:serviceaccount:shop:sniff-capture").unwrap();
        assert_eq!((account.namespace.as_str(), account.name.as_str()), ("shop", "sniff-capture"));
        assert_eq!(account.to_string(), "system:serviceaccount:shop:sniff-capture");
        for other in
            ["jane", "system:serviceaccount:shop", "system:serviceaccount::x", "system:serviceaccount:a:b:c"]
        {
            assert_eq!(Account::of_user(other), None, "{other}");
        }
    }
}

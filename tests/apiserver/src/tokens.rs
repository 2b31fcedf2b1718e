//! Tokens of service accounts: issued, and reviewed.
//!
//! A token is a JSON Web Token, signed by remembering what was issued. As in Go, what stands in the unused bits of a
//! signature's last letter does not matter: one token can be written in several ways.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::{BASE64URL_NOPAD, Encoding, Specification};
use serde_json::{Value, json};

use crate::{
    http::Refusal,
    objects::{Key, new_uid},
    router::{Asked, not_found},
    shared::State,
    users::User,
};

/// The server's own audience.
pub(crate) const OF_SERVER: &str = "https://kubernetes.default.svc";
/// The shortest life of a token, in seconds (kubernetes, `pkg/apis/authentication/validation/validation.go`).
const SHORTEST: u64 = 600;
const SIGNATURE_LEN: usize = 32;

/// What was issued, by what is signed of it.
#[derive(Debug, Default)]
pub(crate) struct Tokens(HashMap<String, Issued>);

#[derive(Debug)]
struct Issued {
    signature: Vec<u8>,
    namespace: String,
    account: String,
    audiences: Vec<String>,
    expires_at: u64,
    id: String,
}

/// The answer to a `TokenRequest`.
pub(crate) fn issue(state: &mut State, asked: &Asked, body: &Value) -> Result<Value, Refusal> {
    let Asked { namespace, name, .. } = asked;
    if state.objects.get(&Key::new("serviceaccounts", namespace, name)).is_none() {
        return Err(not_found("serviceaccounts", name));
    }
    let spec = &body["spec"];
    let seconds = spec["expirationSeconds"].as_u64().unwrap_or(3600);
    if seconds < SHORTEST {
        return Err(Refusal {
            code: 422,
            reason: "Invalid",
            message: "spec.expirationSeconds: may not specify a duration less than 10 minutes".to_owned(),
        });
    }
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = audiences.filter_map(|it| it.as_str().map(str::to_owned)).collect();
    let audiences = if audiences.is_empty() { vec![OF_SERVER.to_owned()] } else { audiences };
    let token = state.tokens.issue(namespace, name, &audiences, now(), seconds);
    let mut answer = body.clone();
    answer["status"] = json!({"token": token, "expirationTimestamp": "2026-01-01T00:00:00Z"});
    Ok(answer)
}

impl Tokens {
    /// A token that was issued at `issued_at` and lives for `seconds`.
    pub(crate) fn issue(
        &mut self,
        namespace: &str,
        account: &str,
        audiences: &[String],
        issued_at: u64,
        seconds: u64,
    ) -> String {
        let (id, expires_at) = (new_uid(), issued_at + seconds);
        let claims = json!({"aud": audiences, "exp": expires_at, "iat": issued_at, "nbf": issued_at, "jti": id,
            "iss": OF_SERVER, "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": ""}}});
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&json!({"alg": "RS256", "kid": "test"})), part(&claims));
        let signature: Vec<u8> = (0..SIGNATURE_LEN).map(|_| fastrand::u8(..)).collect();
        let token = format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature));
        let (namespace, account, audiences) = (namespace.to_owned(), account.to_owned(), audiences.to_vec());
        self.0.insert(signed, Issued { signature, namespace, account, audiences, expires_at, id });
        token
    }

    /// Whose a token is that is good for one of these audiences at this time.
    fn good(&self, token: &str, audiences: &[&str]) -> Option<&Issued> {
        let (signed, signature) = token.rsplit_once('.')?;
        let issued = self.0.get(signed)?;
        let is_signed = lax().decode(signature.as_bytes()).is_ok_and(|it| it == issued.signature);
        let is_meant = issued.audiences.iter().any(|it| audiences.contains(&it.as_str()));
        (is_signed && is_meant && now() < issued.expires_at).then_some(issued)
    }

    /// The user that a token is of, for one audience.
    pub(crate) fn user(&self, token: &str, audience: &str) -> Option<User> {
        self.good(token, &[audience]).map(|issued| User::account(&issued.namespace, &issued.account))
    }

    /// The answer to a `TokenReview`.
    pub(crate) fn review(&self, review: &Value) -> Value {
        let audiences = review["spec"]["audiences"].as_array().into_iter().flatten();
        let audiences: Vec<&str> = audiences.filter_map(Value::as_str).collect();
        let audiences = if audiences.is_empty() { vec![OF_SERVER] } else { audiences };
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let status = match self.good(token, &audiences) {
            Some(issued) => {
                let user = User::account(&issued.namespace, &issued.account);
                let meant: Vec<&&str> =
                    audiences.iter().filter(|it| issued.audiences.iter().any(|its| its == *it)).collect();
                json!({"authenticated": true, "audiences": meant, "user": {"username": user.name(),
                    "groups": user.groups(),
                    "extra": {"authentication.kubernetes.io/credential-id": [format!("JTI={}", issued.id)]}}})
            }
            None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
        };
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
            "status": status})
    }
}

/// Base64 as Go's `RawURLEncoding` reads it.
fn lax() -> Encoding {
    let mut specification: Specification = BASE64URL_NOPAD.specification();
    specification.check_trailing_bits = false;
    specification.encoding().expect("a specification that was one")
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

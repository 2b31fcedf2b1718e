//! Who asks: by a bearer token, that of a person or of a service account.
//!
//! Whoever has none may do all that a test does not deny.

use std::collections::HashMap;

use crate::{http::Refusal, shared::State, tokens};

/// The token of a user that a test has named.
pub(crate) type BearerToken = String;

#[derive(Debug, Default)]
pub(crate) struct Users(HashMap<BearerToken, User>);

/// Whoever asks something.
#[derive(Clone, Debug)]
pub(crate) struct User {
    name: String,
    groups: Vec<String>,
    is_above_rbac: bool,
}

impl Users {
    pub(crate) fn add(&mut self, token: &str, name: &str, groups: &[&str]) {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        self.0.insert(token.to_owned(), User { name: name.to_owned(), groups, is_above_rbac: false });
    }
}

impl User {
    /// Who shows no token.
    pub(crate) fn anybody() -> Self {
        Self { name: "jane".to_owned(), groups: Vec::new(), is_above_rbac: true }
    }

    /// A service account ("Using RBAC Authorization", "Referring to subjects").
    pub(crate) fn account(namespace: &str, name: &str) -> Self {
        let groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        Self { name: format!("system:serviceaccount:{namespace}:{name}"), groups, is_above_rbac: false }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn groups(&self) -> &[String] {
        &self.groups
    }

    pub(crate) fn is_above_rbac(&self) -> bool {
        self.is_above_rbac
    }
}

impl State {
    /// Who asks with this header.
    pub(crate) fn user(&self, authorization: Option<&str>) -> Result<User, Refusal> {
        let Some(token) = authorization.and_then(|it| it.strip_prefix("Bearer ")) else {
            return Ok(User::anybody());
        };
        let found = self.users.0.get(token).cloned().or_else(|| self.tokens.user(token, tokens::OF_SERVER));
        // Tests of how a token is got do not say whose it is.
        let found = found.or_else(|| self.users.0.is_empty().then(User::anybody));
        found.ok_or(Refusal { code: 401, reason: "Unauthorized", message: "Unauthorized".to_owned() })
    }
}

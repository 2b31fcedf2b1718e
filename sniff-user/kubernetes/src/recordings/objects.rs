//! Objects that have pods recorded: made, listed and removed for a person.

use anyhow::{Context as _, Result, anyhow};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    core::DynamicObject,
};
use serde_json::{Value, json};

use super::{GROUP, Recording, resource};
use crate::{Cluster, Forbidden, Request};

/// What the server calls them.
const RESOURCE: &str = "recordings.sniff.internal";
/// What there is to do where it does not know them.
const NOT_INSTALLED: &str = "nothing is recorded in this cluster: it takes deploy/overlays/record, or the chart's value record.enabled=true";
/// What there is to do where it does not know all that they can say.
const UPDATE: &str = "update deploy/overlays/record, or the chart";

/// One that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRecording {
    /// Its namespace, whose pods are meant.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it says.
    pub recording: Recording,
    /// Who has made it, by their own word.
    pub by: Option<String>,
}

impl Cluster {
    /// Makes one of this name, or one that begins so where there is a dash at the end; returns its name. `memory` is the size as
    /// it was written.
    ///
    /// # Errors
    ///
    /// When the server refuses, does not answer, or does not know what recordings are, or all that this one says.
    pub async fn create_recording(
        &self,
        namespace: &str,
        name: &str,
        recording: &Recording,
        memory: &str,
        by: &str,
    ) -> Result<String> {
        let name = match name.strip_suffix('-') {
            Some(start) => format!("{start}-{:05x}", fastrand::u32(..1 << 20)),
            None => name.to_owned(),
        };
        let mut object = DynamicObject::new(&name, &resource()).within(namespace);
        let spec = spec(recording, memory, by);
        object.data = json!({"spec": spec});
        let request = Request { verb: "create", resource: RESOURCE, namespace: Some(namespace), name: None };
        let api = self.recordings_of(Some(namespace));
        let made = self.ask(request, api.create(&PostParams::default(), &object)).await;
        let made = made.map_err(|error| advise(error, namespace))?;
        let made = made.with_context(|| format!("there is no namespace {namespace}, or {NOT_INSTALLED}"))?;
        let name = made.name_any();
        match pruned(&spec, &made.data["spec"]).as_slice() {
            [] => Ok(name),
            fields => Err(self.take_back(namespace, &name, fields).await),
        }
    }

    /// Removes one of which the server has not kept these fields: it would record something else than was meant.
    async fn take_back(&self, namespace: &str, name: &str, fields: &[&str]) -> anyhow::Error {
        let fields = fields.join(", ");
        let error = anyhow!("the cluster's definition of recordings lacks {fields}: {UPDATE}");
        match self.delete_recording(namespace, name).await {
            Ok(_) => error,
            Err(why) => error.context(format!("{namespace}/{name} is there without them: {why:#}")),
        }
    }

    /// Those of a namespace, or of all.
    ///
    /// # Errors
    ///
    /// When the server refuses, does not answer, or does not know what recordings are.
    pub async fn recordings(&self, namespace: Option<&str>) -> Result<Vec<NamedRecording>> {
        let request = Request { verb: "list", resource: RESOURCE, namespace, name: None };
        let api = self.recordings_of(namespace);
        let listed = self.ask(request, api.list(&ListParams::default())).await;
        let listed = listed.map_err(|error| match error.to_string().ends_with("(404)") {
            true => anyhow!(NOT_INSTALLED),
            false => error,
        })?;
        let named = |object: DynamicObject| NamedRecording {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            by: object.data["spec"]["by"].as_str().map(str::to_owned),
            recording: Recording::of(&object),
        };
        Ok(listed.into_iter().flatten().map(named).collect())
    }

    /// Removes one; returns whether it was there.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn delete_recording(&self, namespace: &str, name: &str) -> Result<bool> {
        let request =
            Request { verb: "delete", resource: RESOURCE, namespace: Some(namespace), name: Some(name) };
        let api = self.recordings_of(Some(namespace));
        let deleted = self.ask(request, api.delete(name, &DeleteParams::default())).await;
        Ok(deleted.map_err(|error| advise(error, namespace))?.is_some())
    }

    fn recordings_of(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource()),
            None => Api::all_with(self.client.clone(), &resource()),
        }
    }
}

fn spec(recording: &Recording, memory: &str, by: &str) -> Value {
    let Recording { selector, memory: _, filter, snaplen, headers, cutoff, save_when, reason } = recording;
    let mut spec = json!({"selector": selector, "memory": memory, "by": by});
    let more = [
        ("filter", filter.as_ref().map(|it| json!(it))),
        ("snaplen", snaplen.map(|it| json!(it))),
        ("headers", headers.then(|| json!(true))),
        ("cutoff", cutoff.as_ref().map(|it| json!(it))),
        ("saveWhen", save_when.as_ref().map(|it| json!({"filter": it.filter, "perSecond": it.per_second}))),
        ("reason", reason.as_ref().map(|it| json!(it))),
    ];
    more.into_iter().for_each(|(name, value)| value.into_iter().for_each(|value| spec[name] = value));
    spec
}

/// Fields that the server has not kept, as it does in silence with those that the definition of an object does not have.
fn pruned<'a>(sent: &'a Value, kept: &Value) -> Vec<&'a str> {
    let fields = sent.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    fields.filter(|&name| kept.get(name).is_none()).collect()
}

/// Says which right is missing, where one is.
fn advise(error: anyhow::Error, namespace: &str) -> anyhow::Error {
    match error.is::<Forbidden>() {
        true => error.context(format!(
            "whom to record is for whoever may create and delete recordings.{GROUP} in namespace {namespace} \
             (deploy/namespace/capture.yaml)"
        )),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sniff_apiserver::ApiServer;

    use super::*;
    use crate::{Login, recordings::SaveWhen};

    async fn cluster(api: &ApiServer) -> Cluster {
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        Cluster::configured(&login).await.unwrap().unwrap()
    }

    fn recording() -> Recording {
        Recording {
            selector: "app=web".into(),
            memory: Ok(64 << 20),
            filter: Some("tcp".into()),
            snaplen: Some(96),
            headers: true,
            cutoff: Some("16KiB,none".into()),
            save_when: Some(SaveWhen { filter: Some("icmp".into()), per_second: Some(10) }),
            reason: Some("INC-7".into()),
        }
    }

    #[tokio::test]
    async fn what_was_made_is_listed_as_it_was_meant_until_it_is_removed() {
        let api = ApiServer::without_nodes();
        api.put("namespaces", "", "shop", json!({"metadata": {"name": "shop"}}));
        let cluster = cluster(&api).await;
        let made = cluster.create_recording("shop", "web-", &recording(), "64MiB", "jane").await.unwrap();
        assert!(made.starts_with("web-") && made.len() > 4, "{made}");
        let listed = cluster.recordings(None).await.unwrap();
        let named = NamedRecording {
            namespace: "shop".into(),
            name: made.clone(),
            recording: recording(),
            by: Some("jane".into()),
        };
        assert_eq!(listed, [named]);
        assert_eq!(cluster.recordings(Some("bank")).await.unwrap(), []);
        assert!(cluster.delete_recording("shop", &made).await.unwrap());
        assert!(!cluster.delete_recording("shop", &made).await.unwrap());
        assert_eq!(cluster.recordings(None).await.unwrap(), []);
    }

    #[tokio::test]
    async fn an_object_that_the_server_has_not_kept_whole_is_taken_back() {
        let api = ApiServer::without_nodes();
        api.prune_recordings(&["cutoff", "saveWhen"]);
        let cluster = cluster(&api).await;
        let make =
            async |recording| cluster.create_recording("shop", "web", &recording, "64MiB", "jane").await;
        let error = format!("{:#}", make(recording()).await.unwrap_err());
        assert!(
            error.contains("definition of recordings lacks cutoff, saveWhen: update deploy/overlays/record"),
            "{error}"
        );
        assert_eq!(cluster.recordings(None).await.unwrap(), []);
        make(Recording { cutoff: None, save_when: None, ..recording() }).await.unwrap();
        assert_eq!(cluster.recordings(None).await.unwrap().len(), 1);
        // What cannot be taken back is told of.
        api.deny("delete", "recordings");
        let error = format!("{:#}", make(recording()).await.unwrap_err());
        assert!(error.contains("shop/web is there without them: ") && error.contains("cutoff"), "{error}");
    }

    #[tokio::test]
    async fn a_right_that_is_missing_is_named() {
        let api = ApiServer::without_nodes();
        api.deny("create", "recordings");
        let error = cluster(&api).await.create_recording("shop", "web", &recording(), "64MiB", "jane").await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("create and delete recordings.sniff.internal in namespace shop"), "{error}");
    }
}

//! Pods that a runtime has begun to run, told long before their first container starts.
//!
//! containerd tells its own clients of each container, a sandbox's included, before the sandbox has its network
//! (`containerd.services.events.v1`, beside the CRI at the same socket). Some versions (1.6 for one) make the sandbox's
//! record first, and put its network namespace in by an update (`RunPodSandbox`, pkg/cri/server). Other runtimes tell by
//! the CRI's own events, which come when the network is there.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use http::uri::PathAndQuery;
use log::debug;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    Cri, MAX_ANSWER,
    api::{self, netns_of_spec},
    arrival::{Arrival, arrival},
};

/// What containerd has: the containers of the CRI, and all else.
const CRI_CONTAINERS: &str = "k8s.io";
/// What happens to containerd's records.
const CREATED: &str = "/containers/create";
const UPDATED: &str = "/containers/update";
const DELETED: &str = "/containers/delete";

/// The pods that a runtime begins to run, from now on.
pub struct Arrivals {
    channel: Channel,
    events: Events,
}

enum Events {
    Containerd {
        events: tonic::Streaming<api::Envelope>,
        /// Sandboxes without a network namespace so far, by id, and when they were made.
        early: HashMap<String, SystemTime>,
    },
    Cri(tonic::Streaming<api::ContainerEvent>),
}

impl Cri {
    /// Listens for pods to come. Returns when the first event is there: until then, servers send nothing.
    ///
    /// # Errors
    ///
    /// When the runtime has no events, or ends.
    pub async fn arrivals(&self) -> Result<Arrivals> {
        let channel = self.channel.clone();
        let filter = |topic| format!("namespace=={CRI_CONTAINERS},topic==\"{topic}\"");
        let subscribe = api::SubscribeRequest { filters: [CREATED, UPDATED, DELETED].map(filter).to_vec() };
        let path = "/containerd.services.events.v1.Events/Subscribe";
        let events = match stream(&channel, path, subscribe).await {
            Ok(events) => Events::Containerd { events, early: HashMap::new() },
            Err(status) if status.code() == Code::Unimplemented => {
                let path = "/runtime.v1.RuntimeService/GetContainerEvents";
                let events = stream(&channel, path, api::GetEventsRequest {}).await;
                Events::Cri(events.map_err(|status| self.explain(&status))?)
            }
            Err(status) => return Err(self.explain(&status)),
        };
        Ok(Arrivals { channel, events })
    }

    /// The pods with a network of their own whose sandboxes run and were made later than `since`: those that were there
    /// before anybody told of them.
    ///
    /// # Errors
    ///
    /// When the runtime fails or does not answer within 5 seconds.
    pub async fn arrived_since(&self, since: SystemTime) -> Result<Vec<Arrival>> {
        let mut arrived = Vec::new();
        for sandbox in self.sandboxes().await? {
            let made = SystemTime::UNIX_EPOCH + Duration::from_nanos(sandbox.created_at.max(0) as u64);
            // One may be gone again.
            if sandbox.ready
                && made > since
                && self.network_of(&sandbox.id).await.is_ok_and(|network| !network.host)
            {
                arrived.extend(arrival(sandbox.labels, None, made, true));
            }
        }
        Ok(arrived)
    }

    fn explain(&self, status: &Status) -> anyhow::Error {
        anyhow!("CRI socket {}: events: {} ({})", self.socket.display(), status.message(), status.code())
    }
}

impl Arrivals {
    /// The next pod; `None` when the runtime has ended.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be heard any more.
    pub async fn next(&mut self) -> Result<Option<Arrival>> {
        loop {
            let arrival = match &mut self.events {
                Events::Containerd { events, early } => match events.message().await? {
                    Some(event) => match sandbox_of(&self.channel, early, &event).await {
                        Ok(arrival) => arrival,
                        // One may be gone again.
                        Err(error) => {
                            debug!("a container that cannot be looked up: {error:#}");
                            None
                        }
                    },
                    None => return Ok(None),
                },
                Events::Cri(events) => match events.message().await? {
                    Some(event) => event.arrival(),
                    None => return Ok(None),
                },
            };
            if arrival.is_some() {
                return Ok(arrival);
            }
        }
    }
}

/// The sandbox that an event of containerd's is about, if it is one that has got its network namespace.
async fn sandbox_of(
    channel: &Channel,
    early: &mut HashMap<String, SystemTime>,
    event: &api::Envelope,
) -> Result<Option<Arrival>> {
    let Some(id) = event.container() else { return Ok(None) };
    let made = match event.topic() {
        CREATED => event.time(),
        UPDATED if let Some(&made) = early.get(&id) => made,
        DELETED => {
            early.remove(&id);
            return Ok(None);
        }
        _ => return Ok(None),
    };
    let record = record(channel, id.clone()).await?;
    let Some((labels, spec)) = record.into_sandbox() else { return Ok(None) };
    let Some(netns) = netns_of_spec(&spec) else {
        early.insert(id, made);
        return Ok(None);
    };
    early.remove(&id);
    Ok(arrival(labels, Some(netns), made, false))
}

/// What containerd has of a container.
async fn record(channel: &Channel, id: String) -> Result<api::ContainerRecord> {
    let mut request = Request::new(api::GetContainerRequest { id });
    request.metadata_mut().insert("containerd-namespace", CRI_CONTAINERS.parse()?);
    let path = PathAndQuery::from_static("/containerd.services.containers.v1.Containers/Get");
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    client.ready().await?;
    let codec = ProstCodec::<_, api::GetContainerResponse>::default();
    let response = client.unary(request, path, codec).await?.into_inner();
    response.container.context("no container in the answer")
}

async fn stream<Q, A>(
    channel: &Channel,
    path: &'static str,
    request: Q,
) -> Result<tonic::Streaming<A>, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    Ok(client.server_streaming(Request::new(request), path, ProstCodec::default()).await?.into_inner())
}

//! A client of the API server that sends what is written at once.
//!
//! TCP gathers small writes while the server delays its acknowledgements (Nagle's algorithm), which costs each start some
//! ten milliseconds. `Client::try_from` makes a connector that leaves that on, and lets nobody else make it: so here is
//! what it makes of a configuration, without its traces.

use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config, Result,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use tower::{BoxError, ServiceBuilder};

/// A client for this configuration, which does not try again by itself. Contacts nobody yet.
///
/// # Errors
///
/// When the configuration cannot be used.
pub fn client(mut config: Config) -> Result<Client> {
    // Behind a proxy, the delay is the proxy's as well.
    if config.proxy_url.is_some() {
        config.default_retry = false;
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

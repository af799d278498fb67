//! Owns who gets in: authorities, protocols, names, revocation, bounds on connections.

mod common;

use std::time::Duration;

use common::*;
use tidewell_ingest::authority::Authority;
use tidewell_ingest::client::{Client, ClientConfig};
use tidewell_ingest::identity::Identity;
use tidewell_ingest::server::ServerConfig;

fn impatient(addr: std::net::SocketAddr) -> ClientConfig {
    ClientConfig { connect_timeout: Duration::from_secs(3), ..client_config(addr) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused() {
    let (tls, foreign) = (Tls::new(), Tls::new());
    let (server, addr) = start(server_config(), &tls, MemoryStore::start(1, 16));
    // The client trusts the node, but not the other way round.
    std::fs::copy(tls.path().join("ca.pem"), foreign.path().join("ca.pem")).unwrap();
    let refused = Client::connect(impatient(addr), &foreign.material("dev")).await.err().expect("must be refused");
    assert!(refused.to_string().contains(&addr.to_string()), "{refused}");
    // And a client does not talk to a node of another authority.
    let suspicious = Tls::new();
    let refused = Client::connect(impatient(addr), &suspicious.material("dev")).await.err().expect("must be refused");
    assert!(refused.to_string().contains("certificate"), "{refused}");
    eventually("failed handshakes are counted", || server.metrics().handshakes_failed.value() >= 2).await;
    assert_eq!(server.metrics().connections_total.value(), 0);
    assert!(Client::connect(impatient(addr), &tls.material("dev")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_is_refused() {
    let tls = Tls::new();
    let (server, addr) = start(server_config(), &tls, MemoryStore::start(1, 16));
    let mut config = tls.material("dev").client_config().unwrap();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let error = RawPeer::connect(addr, config).await.err().expect("must be refused").to_string();
    assert!(error.contains("any known protocol"), "{error}");
    eventually("it is counted", || server.metrics().handshakes_failed.value() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_without_a_name_is_told_what_it_carries() {
    let tls = Tls::new();
    let (server, addr) = start(server_config(), &tls, MemoryStore::start(1, 16));
    // The node's own certificate is signed by the right authority but names nobody who may write; it is also not made
    // for clients, which already the TLS layer refuses.
    assert!(Client::connect(impatient(addr), &tls.material("node")).await.is_err());
    let authority = Authority::open(tls.path()).unwrap();
    authority.issue("odd", &[], &["odd.example"]).unwrap();
    assert!(Client::connect(impatient(addr), &tls.material("odd")).await.is_err());
    // A reader gets in, since its certificate is good, and writes nothing.
    tls.issue("reader", Identity::Reader("r".into()));
    let client = Client::connect(impatient(addr), &tls.material("reader")).await.unwrap();
    let refused = client.send(batch(&["truck_1"], 1, 0)).await.unwrap().wait().await.unwrap_err();
    assert!(refused.message.contains("reader/r does not write"), "{}", refused.message);
    assert_eq!(server.metrics().batches.value(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_is_thrown_out_and_stays_out() {
    let tls = Tls::new();
    tls.issue("depot", Identity::Gateway("depot".into()));
    let store = MemoryStore::start(1, 16);
    let (server, addr) = start(server_config(), &tls, store.clone());
    let depot = Client::connect(client_config(addr), &tls.material("depot")).await.unwrap();
    let dev = Client::connect(client_config(addr), &tls.material("dev")).await.unwrap();
    depot.send(batch(&["truck_1"], 1, 0)).await.unwrap().wait().await.unwrap();

    let authority = Authority::open(tls.path()).unwrap();
    authority.revoke(&[&tls.path().join("depot.pem")]).unwrap();
    assert_eq!(server.reload_tls(&tls.material("node")).unwrap(), 1);
    eventually("its connection is gone", || server.metrics().connections.value() == 1).await;
    let stuck = depot.send(batch(&["truck_1"], 1, 1)).await.unwrap();
    dev.send(batch(&["truck_1"], 1, 2)).await.unwrap().wait().await.unwrap();
    assert!(Client::connect(impatient(addr), &tls.material("depot")).await.is_err(), "revoked");
    assert!(!stuck.is_done());
    assert_eq!(store.row_count(), 2);

    // A new list without it lets it in again, and what waited arrives.
    authority.revoke(&[]).unwrap();
    server.reload_tls(&tls.material("node")).unwrap();
    stuck.wait().await.unwrap();
    assert_eq!(store.row_count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_above_the_bound_are_refused() {
    let tls = Tls::new();
    let config = ServerConfig { connections_max: 2, ..server_config() };
    let (server, addr) = start(config, &tls, MemoryStore::start(1, 16));
    let first = Client::connect(impatient(addr), &tls.material("dev")).await.unwrap();
    let _second = Client::connect(impatient(addr), &tls.material("dev")).await.unwrap();
    assert!(Client::connect(impatient(addr), &tls.material("dev")).await.is_err());
    assert!(server.metrics().refused.value() > 0);
    first.close(Duration::from_secs(1)).await;
    eventually("room again", || server.metrics().connections.value() == 1).await;
    assert!(Client::connect(impatient(addr), &tls.material("dev")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_many_handshakes_peers_prove_their_address_first() {
    let tls = Tls::new();
    let config = ServerConfig { retry_from_handshakes: 0, ..server_config() };
    let (server, addr) = start(config, &tls, MemoryStore::start(1, 16));
    let client = Client::connect(impatient(addr), &tls.material("dev")).await.unwrap();
    client.send(batch(&["truck_1"], 1, 0)).await.unwrap().wait().await.unwrap();
    assert_eq!(server.metrics().retried.value(), 1);
}

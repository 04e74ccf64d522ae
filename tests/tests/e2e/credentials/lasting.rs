use harness::{Connection, Lasting, wait_for};

use harness::services::{SECRET, With, bundle, config, free_port, put_at};

use super::setting::ask_over;
use super::upstream::{Upstream, answer};

#[test]
fn a_credential_outlives_the_boot_where_the_bundle_keeps_a_state_and_only_there() {
    let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
    let with = With::default();
    let lines = config(upstream.address, free_port(), "");
    let mut lasting = Lasting::prepared(|state| bundle(state, &upstream.root, &with), &lines);
    put_at(&lasting.state, &lasting.socket, harness::now().0);
    let socket = lasting.folder().join("proxy/agentkeys-proxy.sock");
    let status = || {
        let mut connection = Connection::open(&socket).unwrap();
        ask_over(&mut connection, "GET /api/models", "", b"").status
    };
    assert_eq!(status(), 200);
    lasting.reboot();
    wait_for(|| status() == 200);
    let seen = upstream.seen();
    assert_eq!(
        seen.last().unwrap().header("authorization"),
        Some(&*format!("Bearer {SECRET}"))
    );
    // Without a state the key is another one in each boot.
    let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
    let mut setting = super::setting::Setting::start(upstream);
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
    setting.running.reboot_enclave();
    wait_for(|| {
        let got = setting.ask("GET /api/models", "", b"");
        got.header("x-anchorhold-error").as_deref() == Some("envelope_unopened")
    });
    // The desk puts it again: a later version, for the same place.
    setting.put_well("crew", SECRET);
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
}

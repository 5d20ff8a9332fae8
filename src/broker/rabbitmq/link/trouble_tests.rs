//! What servers say, and what is made of it.

use std::sync::Arc;

use lapin::{
    protocol::{AMQPError, AMQPErrorKind},
    types::ShortString,
};

use super::*;

fn said(code: u16, text: &str) -> lapin::Error {
    let kind = AMQPErrorKind::from_id(code).unwrap();
    ErrorKind::ProtocolError(AMQPError::new(kind, ShortString::from(text))).into()
}

#[test]
fn what_differs_is_named_with_both_values() {
    let table = [
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'p.fleet' in vhost '/': received '16' but current is '8'",
            "broker.rabbitmq.partitions is 16 here, but 8",
            "broker.rabbitmq.partitions = 8",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length-bytes' for queue 'p.fleet' in vhost '/': received the value '256' of type 'long' but current is the value '64' of type 'long'",
            "broker.rabbitmq.prefetch is 256 here, but 64",
            "broker.rabbitmq.prefetch = 64",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'p.dead' in vhost '/': received 'quorum' but current is 'classic'",
            "the queue `p.dead` is there with other settings: x-queue-type is classic, we need quorum",
            "broker.rabbitmq.prefix",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'p.chat' in vhost '/': received 'direct' but current is 'topic'",
            "the exchange `p.chat` is there with other settings: type is topic, we need direct",
            "delete the exchange",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'p.dead' in vhost '/': received 'reject-publish' but current is none",
            "x-overflow is none, we need reject-publish",
            "broker.rabbitmq.prefix",
        ),
        (
            "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'p.dead'",
            "invalid arg 'x-queue-type'",
            "broker.rabbitmq.prefix",
        ),
    ];
    for (text, told, remedy) in table {
        let trouble = Trouble::of_declaring("h:1".into(), &said(406, text));
        assert!(trouble.is_lasting() && trouble.to_string().contains(told), "{trouble}");
        assert!(trouble.remedy().contains(remedy), "{}", trouble.remedy());
    }
}

#[test]
fn only_what_the_server_compares_lasts() {
    assert!(
        Trouble::of_declaring("h:1".into(), &said(403, "ACCESS_REFUSED - access to queue 'p.dead' refused"))
            .is_lasting()
    );
    let passing = [
        said(404, "NOT_FOUND - no exchange 'p.dlx'"),
        said(405, "RESOURCE_LOCKED - cannot obtain exclusive access"),
        said(320, "CONNECTION_FORCED - broker forced connection closure"),
        said(541, "INTERNAL_ERROR"),
        ErrorKind::MissingHeartbeatError.into(),
        ErrorKind::IOError(Arc::new(io::ErrorKind::ConnectionReset.into())).into(),
    ];
    for error in passing {
        assert!(!Trouble::of_declaring("h:1".into(), &error).is_lasting(), "{error}");
    }
}

#[test]
fn what_hinders_a_connection_is_told_apart() {
    let tls = |error: TlsError| lapin::Error::from(io::Error::new(io::ErrorKind::InvalidData, error));
    let table = [
        (said(403, "ACCESS_REFUSED - Login was refused"), "this user or password", "broker.rabbitmq.password"),
        (said(530, "NOT_ALLOWED - vhost other not found"), "no virtual host `v`", "broker.rabbitmq.vhost"),
        (
            said(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'"),
            "does not let this user",
            "set_permissions",
        ),
        (said(320, "CONNECTION_FORCED"), "CONNECTION_FORCED", "its log"),
        (io::Error::from(io::ErrorKind::ConnectionRefused).into(), "no connection to n", "broker.rabbitmq.nodes"),
        (tls(TlsError::InvalidCertificate(CertificateError::NotValidForName)), "another name", "certificate"),
        (tls(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)), "not trusted", "broker.rabbitmq.ca_file"),
        (tls(TlsError::AlertReceived(AlertDescription::CertificateRequired)), "our TLS certificate", "client_cert"),
    ];
    for (error, told, remedy) in table {
        let trouble = Trouble::of_connecting("n".into(), &error, "v", true);
        assert!(trouble.to_string().contains(told) && trouble.remedy().contains(remedy), "{trouble}");
        assert!(!trouble.is_lasting(), "{trouble}");
    }
}

//! Addresses as the old stack wrote them: `host`, `host:port`, `amqp://user:password@host:port/path?option=value`.

/// An address taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Address {
    /// `host:port`.
    pub(super) node: String,
    /// User name, when there is one.
    pub(super) username: Option<String>,
    /// Password, when there is one.
    pub(super) password: Option<String>,
    /// What follows the first `/`, when it is not empty.
    pub(super) path: Option<String>,
    /// The value of the option `heartbeat`.
    pub(super) heartbeat: Option<String>,
    /// Whether the scheme asks for TLS.
    pub(super) tls: bool,
}

impl Address {
    /// Takes an address apart; one without a port gets `port`, or `tls_port` when the scheme asks for TLS.
    pub(super) fn parse(text: &str, port: u16, tls_port: u16) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("", text.trim()));
        let tls = match scheme {
            "" | "amqp" | "pyamqp" | "redis" => false,
            "amqps" | "rediss" => true,
            _ => return None,
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_info, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        // `rabbit@host` is the name of an Erlang node, not a user.
        let (username, password) = match user_info.split_once(':') {
            Some((username, password)) => (decode(username)?, decode(password)?),
            None if scheme.is_empty() => (String::new(), String::new()),
            None => (decode(user_info)?, String::new()),
        };
        let some = |text: String| (!text.is_empty()).then_some(text);
        let mut options = query.split('&').filter_map(|option| option.split_once('='));
        Some(Self {
            node: with_port(host, if tls { tls_port } else { port })?,
            username: some(username),
            password: some(password),
            path: some(decode(path)?),
            heartbeat: options.find(|(name, _)| *name == "heartbeat").map(|(_, value)| value.into()),
            tls,
        })
    }
}

/// Says whether this is a `host:port` that can be connected to.
pub(super) fn is_node(text: &str) -> bool {
    has_port(text) && with_port(text, 0).is_some()
}

fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'))
}

fn with_port(host: &str, port: u16) -> Option<String> {
    let whole = if has_port(host) {
        host.to_owned()
    } else if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let (name, port) = whole.rsplit_once(':')?;
    let letters = |letter: char| letter.is_ascii_alphanumeric() || ".-_:[]".contains(letter);
    let sound = !name.is_empty() && name.chars().all(letters) && port.parse::<u16>().is_ok();
    sound.then_some(whole)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Option<String> {
        Address::parse(text, 5672, 5671).map(|address| address.node)
    }

    #[test]
    fn a_node_gets_the_port_of_its_scheme() {
        let cases = [
            ("rabbit-1", "rabbit-1:5672"),
            (" rabbit-1:15672 ", "rabbit-1:15672"),
            ("rabbit@rabbit-1", "rabbit-1:5672"),
            ("amqp://rabbit-1", "rabbit-1:5672"),
            ("amqps://rabbit-1", "rabbit-1:5671"),
            ("10.0.0.1:5672", "10.0.0.1:5672"),
            ("::1", "[::1]:5672"),
            ("[::1]", "[::1]:5672"),
            ("[::1]:7", "[::1]:7"),
        ];
        for (text, expected) in cases {
            assert_eq!(node(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "http://rabbit-1", "rabbit-1:port", "rabbit-1:70000", ":5672", "a b", "amqp://u:%zz@h", "x/%2"]
        {
            assert_eq!(node(text), None, "{text}");
        }
    }

    #[test]
    fn credentials_path_and_heartbeat_are_taken_from_a_whole_address() {
        let address = Address::parse("amqps://us%40er:p%3Aw@h:1/%2Fv?x=1&heartbeat=30", 5672, 5671).unwrap();
        let expected = Address {
            node: "h:1".into(),
            username: Some("us@er".into()),
            password: Some("p:w".into()),
            path: Some("/v".into()),
            heartbeat: Some("30".into()),
            tls: true,
        };
        assert_eq!(address, expected);
        let plain = Address::parse("redis://:pw@h/", 6379, 6379).unwrap();
        assert_eq!((plain.username, plain.password.as_deref(), plain.path), (None, Some("pw"), None));
    }

    #[test]
    fn a_node_of_the_file_has_a_port() {
        assert!(is_node("rabbit-1:5672") && is_node("[::1]:5672"));
        for text in ["rabbit-1", "::1", "", "amqp://h:1", "h:x", "user:pw@h:1"] {
            assert!(!is_node(text), "{text}");
        }
    }
}

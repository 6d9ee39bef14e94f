//! What leads to the inside: spellings of addresses, and names with what the name server says of them.

use hickory_resolver::proto::op::ResponseCode;

use super::dns::{NameServer, Reply};

/// One way to write an inner target.
pub struct Spelling {
    pub host: &'static str,
    /// The address that is connected to while it is allowed; empty where the kernel connects to no such address.
    pub reached: &'static str,
    /// What its refusal says: address and rule.
    pub says: &'static [&'static str],
}

const fn spelling(host: &'static str, reached: &'static str, says: &'static [&'static str]) -> Spelling {
    Spelling { host, reached, says }
}

const LOOPBACK: &[&str] = &["127.0.0.1", "loopback (127.0.0.0/8)"];
const METADATA: &[&str] = &["169.254.169.254", "cloud metadata service"];

pub const SPELLINGS: &[Spelling] = &[
    spelling("127.0.0.1", "127.0.0.1", LOOPBACK),
    spelling("127.0.0.1.", "127.0.0.1", LOOPBACK),
    spelling("2130706433", "127.0.0.1", LOOPBACK),
    spelling("0x7f.1", "127.0.0.1", LOOPBACK),
    spelling("0x7F000001", "127.0.0.1", LOOPBACK),
    spelling("0177.0.0.1", "127.0.0.1", LOOPBACK),
    spelling("017700000001", "127.0.0.1", LOOPBACK),
    spelling("127.1", "127.0.0.1", LOOPBACK),
    spelling("127.0.1", "127.0.0.1", LOOPBACK),
    spelling("%31%32%37.0.0.1", "127.0.0.1", LOOPBACK),
    spelling("①②⑦.0.0.1", "127.0.0.1", LOOPBACK),
    spelling("127。0。0。1", "127.0.0.1", LOOPBACK),
    spelling("127.255.255.254", "127.255.255.254", &["127.255.255.254", "loopback"]),
    spelling("localhost", "127.0.0.1", &["loopback"]),
    spelling("LOCALHOST.", "127.0.0.1", &["loopback"]),
    spelling("a.localhost", "127.0.0.1", &["loopback"]),
    spelling("0.0.0.0", "127.0.0.1", &["0.0.0.0", "this network"]),
    spelling("0", "127.0.0.1", &["0.0.0.0", "this network"]),
    spelling("[::]", "::1", &["::", "unspecified"]),
    spelling("[::1]", "::1", &["::1", "loopback (::1)"]),
    spelling("[0:0:0:0:0:0:0:1]", "::1", &["::1", "loopback (::1)"]),
    spelling("[::ffff:127.0.0.1]", "127.0.0.1", &["IPv4-mapped form of 127.0.0.1", "loopback"]),
    spelling("[::ffff:7f00:1]", "127.0.0.1", &["IPv4-mapped form of 127.0.0.1", "loopback"]),
    spelling("[::127.0.0.1]", "::127.0.0.1", &["IPv4-compatible form of 127.0.0.1", "loopback"]),
    spelling("[64:ff9b::7f00:1]", "64:ff9b::7f00:1", &["NAT64 form of 127.0.0.1", "loopback"]),
    spelling("[64:ff9b:1::a00:1]", "64:ff9b:1::a00:1", &["NAT64 form of 10.0.0.1", "private"]),
    spelling("[2002:7f00:1::1]", "2002:7f00:1::1", &["6to4 form of 127.0.0.1", "loopback"]),
    spelling("[2001:0:808:808::80ff:fffe]", "2001:0:808:808::80ff:fffe", &["Teredo form of 127.0.0.1", "loopback"]),
    spelling("169.254.169.254", "169.254.169.254", METADATA),
    spelling("0xa9fea9fe", "169.254.169.254", METADATA),
    spelling("2852039166", "169.254.169.254", METADATA),
    spelling("0251.0376.0251.0376", "169.254.169.254", METADATA),
    spelling("[::ffff:169.254.169.254]", "169.254.169.254", METADATA),
    spelling("[64:ff9b::a9fe:a9fe]", "64:ff9b::a9fe:a9fe", METADATA),
    spelling("[2002:a9fe:a9fe::]", "2002:a9fe:a9fe::", METADATA),
    spelling("metadata.google.internal", "169.254.169.254", METADATA),
    spelling("METADATA.google.internal.", "169.254.169.254", METADATA),
    spelling("metadata", "169.254.169.254", METADATA),
    spelling("169.254.170.2", "169.254.170.2", &["169.254.170.2", "AWS container credentials"]),
    spelling("168.63.129.16", "168.63.129.16", &["168.63.129.16", "Azure wire server"]),
    spelling("0xa83f8110", "168.63.129.16", &["168.63.129.16", "Azure wire server"]),
    spelling("100.100.100.200", "100.100.100.200", &["100.100.100.200", "Alibaba Cloud"]),
    spelling("192.0.0.192", "192.0.0.192", &["192.0.0.192", "Oracle Cloud"]),
    spelling("[fd00:ec2::254]", "fd00:ec2::254", &["fd00:ec2::254", "AWS metadata"]),
    spelling("[fd20:ce::254]", "fd20:ce::254", &["fd20:ce::254", "Google Cloud"]),
    spelling("10.0.0.1", "10.0.0.1", &["10.0.0.1", "private"]),
    spelling("172.16.0.1", "172.16.0.1", &["172.16.0.1", "private"]),
    spelling("192.168.1.1", "192.168.1.1", &["192.168.1.1", "private"]),
    spelling("100.64.0.1", "100.64.0.1", &["100.64.0.1", "carrier-grade NAT"]),
    spelling("198.18.0.1", "198.18.0.1", &["198.18.0.1", "benchmarking"]),
    spelling("192.0.2.1", "192.0.2.1", &["192.0.2.1", "documentation"]),
    spelling("198.51.100.1", "198.51.100.1", &["198.51.100.1", "documentation"]),
    spelling("203.0.113.1", "203.0.113.1", &["203.0.113.1", "documentation"]),
    spelling("192.88.99.1", "192.88.99.1", &["192.88.99.1", "6to4 relay"]),
    spelling("240.0.0.1", "", &["240.0.0.1", "reserved"]),
    spelling("224.0.0.1", "", &["224.0.0.1", "multicast"]),
    spelling("255.255.255.255", "", &["255.255.255.255", "broadcast"]),
    spelling("[fc00::1]", "fc00::1", &["fc00::1", "unique local"]),
    spelling("[fec0::1]", "fec0::1", &["fec0::1", "site-local"]),
    spelling("[fe80::1]", "", &["fe80::1", "link-local"]),
    spelling("[ff02::1]", "", &["ff02::1", "multicast"]),
    spelling("[2001:db8::1]", "2001:db8::1", &["2001:db8::1", "documentation"]),
    spelling("[100::1]", "100::1", &["100::1", "discard-only"]),
    spelling("[4000::1]", "4000::1", &["4000::1", "outside 2000::/3"]),
];

/// A name that may be registered and is not connected to.
pub struct Refused {
    pub name: &'static str,
    pub class: &'static str,
    pub says: &'static [&'static str],
}

const fn refused(name: &'static str, class: &'static str, says: &'static [&'static str]) -> Refused {
    Refused { name, class, says }
}

pub const NAMES: &[Refused] = &[
    refused("inner.range.test", "forbidden", &["10.0.0.7", "private (10.0.0.0/8)"]),
    refused("mixed.range.test", "forbidden", &["10.0.0.7", "private (10.0.0.0/8)"]),
    refused("last.range.test", "forbidden", METADATA),
    refused("families.range.test", "forbidden", &["::1", "loopback (::1)"]),
    refused("mapped.range.test", "forbidden", &["IPv4-mapped form of 127.0.0.1", "loopback"]),
    refused("nat64.range.test", "forbidden", &["NAT64 form of 169.254.169.254", "cloud metadata service"]),
    refused("sixtofour.range.test", "forbidden", &["6to4 form of 127.0.0.1", "loopback"]),
    refused("teredo.range.test", "forbidden", &["Teredo form of 127.0.0.1", "loopback"]),
    refused("alias.range.test", "forbidden", &["10.0.0.7", "private (10.0.0.0/8)"]),
    refused("chain.range.test", "forbidden", METADATA),
    refused("chased.range.test", "forbidden", METADATA),
    refused("listed.range.test", "forbidden", &["192.168.7.7", "private (192.168.0.0/16)"]),
    refused("short", "forbidden", &["10.0.0.8", "private (10.0.0.0/8)"]),
    refused("zero.range.test", "forbidden", &["0.0.0.0", "this network"]),
    refused("azure.range.test", "forbidden", &["168.63.129.16", "Azure wire server"]),
    refused("alibaba.range.test", "forbidden", &["100.100.100.200", "Alibaba Cloud"]),
    refused("oracle.range.test", "forbidden", &["192.0.0.192", "Oracle Cloud"]),
    refused("aws.range.test", "forbidden", &["fd00:ec2::254", "AWS metadata"]),
    refused("gone.range.test", "resolve", &["gone.range.test"]),
    refused("broken.range.test", "resolve", &["broken.range.test"]),
    refused("silent.range.test", "resolve", &["silent.range.test"]),
    refused("empty.range.test", "resolve", &["empty.range.test"]),
    refused("loop.range.test", "resolve", &["loop.range.test"]),
];

pub fn script(server: &mut NameServer) {
    let plain: &[(&str, &'static [&'static str])] = &[
        ("inner.range.test", &["10.0.0.7"]),
        ("mixed.range.test", &["25.25.25.25", "10.0.0.7"]),
        (
            "last.range.test",
            &["25.25.25.1", "25.25.25.2", "25.25.25.3", "25.25.25.4", "25.25.25.5", "25.25.25.6", "169.254.169.254"],
        ),
        ("families.range.test", &["25.25.25.25", "::1"]),
        ("mapped.range.test", &["::ffff:127.0.0.1"]),
        ("nat64.range.test", &["64:ff9b::a9fe:a9fe"]),
        ("sixtofour.range.test", &["2002:7f00:1::1"]),
        ("teredo.range.test", &["2001:0:808:808::80ff:fffe"]),
        ("short.range.test", &["10.0.0.8"]),
        ("zero.range.test", &["0.0.0.0"]),
        ("azure.range.test", &["168.63.129.16"]),
        ("alibaba.range.test", &["100.100.100.200"]),
        ("oracle.range.test", &["192.0.0.192"]),
        ("aws.range.test", &["fd00:ec2::254"]),
        ("empty.range.test", &[]),
        ("metadata.google.internal", &["169.254.169.254"]),
    ];
    for (name, addresses) in plain {
        let addresses: &'static [&'static str] = addresses;
        server.says(name, move |_, _| Reply::addresses(addresses));
    }
    server.says("alias.range.test", |_, _| Reply::through(&["inner.range.test."], &["10.0.0.7"]));
    let chain: &[&str] = &["a.range.test.", "b.range.test.", "metadata.google.internal."];
    server.says("chain.range.test", move |_, _| Reply::through(chain, &["169.254.169.254"]));
    // Only where it goes on, without the address: the resolver has to ask for that itself.
    server.says("chased.range.test", |_, _| Reply::through(&["metadata.google.internal."], &[]));
    server.says("loop.range.test", |_, _| Reply::through(&["loop.range.test."], &[]));
    server.says("broken.range.test", |_, _| Reply::Code(ResponseCode::ServFail));
    server.says("silent.range.test", |_, _| Reply::Silence);
}

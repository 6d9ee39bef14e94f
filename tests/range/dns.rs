//! A name server that says whatever it is told to, also something else each time it is asked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// Where it is asked.
pub const NAME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);

/// What it says to one question.
pub enum Reply {
    /// These addresses, those of the family that was asked for, behind these names in turn.
    Records {
        aliases: Vec<&'static str>,
        addresses: Vec<IpAddr>,
    },
    Code(ResponseCode),
    Silence,
}

impl Reply {
    pub fn addresses(texts: &[&str]) -> Self {
        Self::through(&[], texts)
    }

    /// As `addresses`, with CNAMEs in between.
    pub fn through(aliases: &[&'static str], texts: &[&str]) -> Self {
        let addresses = texts.iter().map(|text| text.parse().expect("an address")).collect();
        Self::Records { aliases: aliases.to_vec(), addresses }
    }
}

/// Given the kind of record that is asked for, and how often that was asked before.
type Script = Box<dyn Fn(RecordType, usize) -> Reply + Send>;

#[derive(Default)]
pub struct NameServer {
    names: HashMap<String, Script>,
    asked: HashMap<(String, RecordType), usize>,
}

impl NameServer {
    pub fn says(&mut self, name: &str, script: impl Fn(RecordType, usize) -> Reply + Send + 'static) {
        self.names.insert(format!("{name}."), Box::new(script));
    }

    /// Answers from now on, until the process ends.
    pub fn start(mut self) {
        let socket = UdpSocket::bind(NAME_SERVER).expect("a port of one's own network");
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let Ok(request) = Message::from_vec(&bytes[..length]) else { continue };
                if let Some(response) = self.answer(&request) {
                    drop(socket.send_to(&response.to_vec().expect("a message"), from));
                }
            }
        });
    }

    fn answer(&mut self, request: &Message) -> Option<Message> {
        let query = request.queries.first()?.clone();
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_available = true;
        response.add_query(query.clone());
        let (name, kind) = (query.name().to_string().to_ascii_lowercase(), query.query_type());
        let times = self.asked.entry((name.clone(), kind)).or_default();
        let reply = match self.names.get(&name) {
            Some(script) => script(kind, *times),
            None => Reply::Code(ResponseCode::NXDomain),
        };
        *times += 1;
        match reply {
            Reply::Silence => return None,
            Reply::Code(code) => response.metadata.response_code = code,
            Reply::Records { aliases, addresses } => {
                let mut owner = query.name().clone();
                for alias in aliases {
                    let alias = Name::from_ascii(alias).expect("a name");
                    response.add_answer(Record::from_rdata(owner, 0, RData::CNAME(CNAME(alias.clone()))));
                    owner = alias;
                }
                for address in addresses {
                    let data = match address {
                        IpAddr::V4(ip) if kind == RecordType::A => RData::A(A(ip)),
                        IpAddr::V6(ip) if kind == RecordType::AAAA => RData::AAAA(AAAA(ip)),
                        _ => continue,
                    };
                    response.add_answer(Record::from_rdata(owner.clone(), 0, data));
                }
            }
        }
        Some(response)
    }
}

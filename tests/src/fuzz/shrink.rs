//! Simpler shapes than a given one, each in one respect.

use super::shape::{Body, Damage, Fragments, Mac, Packet, Shape, Upper};

impl Shape {
    /// Shapes that lack one oddity of this one.
    pub(crate) fn simpler(&self, own: Mac) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |shape: Self| {
            if shape != *self {
                all.push(shape);
            }
        };
        add(Self { tags: Vec::new(), ..self.clone() });
        add(Self { tags: self.tags.iter().skip(1).copied().collect(), ..self.clone() });
        add(Self { source_mac: own, ..self.clone() });
        match &self.body {
            Body::Arp(arp) => {
                let mut short = arp.clone();
                short.trailer = 18;
                add(Self { body: Body::Arp(short), ..self.clone() });
            }
            Body::Ip(packet) => {
                packet.simpler().into_iter().for_each(|packet| add(Self { body: Body::Ip(packet), ..self.clone() }));
            }
            Body::Foreign(kind, packet) => {
                add(Self { body: Body::Ip(packet.clone()), ..self.clone() });
                let wrapped = packet.simpler().into_iter().map(|packet| Body::Foreign(*kind, packet));
                wrapped.for_each(|body| add(Self { body, ..self.clone() }));
            }
            Body::Llc(llc, snap, packet) => {
                add(Self { body: Body::Ip(packet.clone()), ..self.clone() });
                let wrapped = packet.simpler().into_iter().map(|packet| Body::Llc(*llc, *snap, packet));
                wrapped.for_each(|body| add(Self { body, ..self.clone() }));
            }
        }
        all
    }
}

impl Packet {
    fn simpler(&self) -> Vec<Self> {
        let mut all = vec![
            Self { options: Vec::new(), ..self.clone() },
            Self { extensions: Vec::new(), ..self.clone() },
            Self { fragments: Fragments::Whole, ..self.clone() },
            Self { hop_limit: 64, ..self.clone() },
            Self { damage: Damage::None, ..self.clone() },
            Self { payload: 8, ..self.clone() },
            Self { upper: Upper::Udp(40_000, 9_999), ..self.clone() },
        ];
        for index in 0..self.extensions.len() {
            let mut extensions = self.extensions.clone();
            extensions.remove(index);
            all.push(Self { extensions, ..self.clone() });
        }
        if let Upper::Icmp(kind, code, Some(_)) = self.upper {
            all.push(Self { upper: Upper::Icmp(kind, code, None), ..self.clone() });
        }
        all
    }
}

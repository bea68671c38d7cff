//! Answers as bytes, unread: what members say at one revision must be the same to the last byte.

use berth_proto::v1;
use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

use crate::Api;

#[derive(Clone, Copy, Debug, Default)]
struct Unread;

impl Codec for Unread {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Unread {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

async fn ask(api: &Api, path: &'static str, request: &impl Message) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(api.channel());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = client.unary(Request::new(request.encode_to_vec()), PathAndQuery::from_static(path), Unread).await?;
    Ok(answer.into_inner())
}

/// Everything that one member lists, as the bytes that it sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lists {
    /// The revision of all of them.
    pub revision: u64,
    /// Every VM, with its status.
    pub vms: Bytes,
    /// Every host, with its conditions and what is booked.
    pub hosts: Bytes,
    /// Every image, with its copies.
    pub images: Bytes,
    /// Every instance type.
    pub instance_types: Bytes,
}

impl Lists {
    /// What a member has at hand, if all lists speak of one revision.
    pub async fn of(api: &Api) -> Result<Option<Self>, Status> {
        let stale = v1::Consistency::Stale.into();
        let vms = v1::ListVmsRequest { consistency: stale, ..v1::ListVmsRequest::default() };
        let hosts = v1::ListHostsRequest { consistency: stale, ..v1::ListHostsRequest::default() };
        let images = v1::ListImagesRequest { consistency: stale, ..v1::ListImagesRequest::default() };
        let types = v1::ListInstanceTypesRequest { consistency: stale };
        let (vms, hosts, images, instance_types) = tokio::try_join!(
            ask(api, "/berth.v1.VmService/ListVms", &vms),
            ask(api, "/berth.v1.HostService/ListHosts", &hosts),
            ask(api, "/berth.v1.ImageService/ListImages", &images),
            ask(api, "/berth.v1.InstanceTypeService/ListInstanceTypes", &types),
        )?;
        let read = |error: prost::DecodeError| Status::internal(error.to_string());
        let revision = v1::ListVmsResponse::decode(vms.clone()).map_err(read)?.revision;
        let same = v1::ListHostsResponse::decode(hosts.clone()).map_err(read)?.revision == revision
            && v1::ListImagesResponse::decode(images.clone()).map_err(read)?.revision == revision
            && v1::ListInstanceTypesResponse::decode(instance_types.clone()).map_err(read)?.revision == revision;
        Ok(same.then_some(Self { revision, vms, hosts, images, instance_types }))
    }
}

//! `berth host`.

pub(super) mod list;
pub(super) mod orphans;
pub(super) mod show;

use berth_proto::v1::host_service_client::HostServiceClient;
use tonic::transport::Channel;

use crate::client::LARGEST_ANSWER;

fn service(channel: Channel) -> HostServiceClient<Channel> {
    HostServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

//! `berth host`.

pub(super) mod capacity;
pub(super) mod confirm_dead;
pub(super) mod list;
pub(super) mod orphans;
pub(super) mod remove;
pub(super) mod show;
pub(super) mod update;

use berth_proto::v1::host_service_client::HostServiceClient;
use tonic::transport::Channel;

use crate::client::LARGEST_ANSWER;

fn service(channel: Channel) -> HostServiceClient<Channel> {
    HostServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

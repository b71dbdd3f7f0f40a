//! What each room request asks of media, and what changes in the room once media has done it (`docs/protocol.md` §3).

use super::*;

fn bounded(app_data: Value, texts: [&str; 2]) -> Result<Value, Refusal> {
    if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) || app_data.to_string().len() > APP_DATA_BYTES_MAX
    {
        let refusal = Refusal::from(MediaError::InvalidParameters("a text or appData is too long".into()));
        return Err(refusal.beyond("text"));
    }
    Ok(if app_data.is_null() { json!({}) } else { app_data })
}

/// What media is asked, and what follows here.
pub(super) fn action_of(request: RoomRequest, peer: &PeerId) -> Result<(Action, Then), Refusal> {
    let plain = |action| Ok((action, Then::Nothing));
    match request {
        RoomRequest::CreateTransport { direction, force_tcp } => {
            plain(Action::CreateTransport { direction, force_tcp })
        }
        RoomRequest::ConnectTransport { transport_id, dtls_parameters } => {
            plain(Action::ConnectTransport { transport: transport_id, dtls: dtls_parameters })
        }
        RoomRequest::RestartIce { transport_id } => plain(Action::RestartIce { transport: transport_id }),
        RoomRequest::CloseTransport { transport_id } => {
            Ok((Action::CloseTransport { transport: transport_id.clone() }, Then::Disconnected(transport_id)))
        }
        RoomRequest::Produce { transport_id, kind, rtp_parameters, source, paused, app_data } => {
            let app_data = bounded(app_data, [&source, ""])?;
            let (peer, pipe, rtp) = (peer.clone(), Pipe::default(), rtp_parameters.clone());
            let published = Published { peer, pipe, kind, rtp, source, paused, app_data };
            let action = Action::Produce { transport: transport_id, kind, rtp: rtp_parameters, paused };
            Ok((action, Then::Published(Box::new(published))))
        }
        RoomRequest::PauseProducer { producer_id } => {
            Ok((Action::PauseProducer { producer: producer_id.clone() }, Then::Paused(producer_id, true)))
        }
        RoomRequest::ResumeProducer { producer_id } => {
            Ok((Action::ResumeProducer { producer: producer_id.clone() }, Then::Paused(producer_id, false)))
        }
        RoomRequest::CloseProducer { producer_id } => {
            Ok((Action::CloseProducer { producer: producer_id.clone() }, Then::Unpublished(producer_id)))
        }
        RoomRequest::Consume { transport_id, producer_id, rtp_capabilities } => plain(Action::Consume {
            transport: transport_id,
            producer: producer_id,
            capabilities: rtp_capabilities,
        }),
        RoomRequest::PauseConsumer { consumer_id } => plain(Action::PauseConsumer { consumer: consumer_id }),
        RoomRequest::ResumeConsumer { consumer_id } => {
            plain(Action::ResumeConsumer { consumer: consumer_id })
        }
        RoomRequest::CloseConsumer { consumer_id } => plain(Action::CloseConsumer { consumer: consumer_id }),
        RoomRequest::SetPreferredLayers { consumer_id, spatial_layer, temporal_layer } => {
            plain(Action::SetPreferredLayers {
                consumer: consumer_id,
                spatial: spatial_layer,
                temporal: temporal_layer,
            })
        }
        RoomRequest::SetPriority { consumer_id, priority } => {
            plain(Action::SetPriority { consumer: consumer_id, priority })
        }
        RoomRequest::RequestKeyFrame { consumer_id } => {
            plain(Action::RequestKeyFrame { consumer: consumer_id })
        }
        RoomRequest::ProduceData { transport_id, sctp_stream_parameters, label, protocol, app_data } => {
            let app_data = bounded(app_data, [&label, &protocol])?;
            let (of_label, of_protocol) = (label.clone(), protocol.clone());
            let (peer, pipe, sctp) = (peer.clone(), Pipe::default(), sctp_stream_parameters.clone());
            let published =
                PublishedData { peer, pipe, sctp, label: of_label, protocol: of_protocol, app_data };
            let action = Action::ProduceData {
                transport: transport_id,
                sctp: sctp_stream_parameters,
                label,
                protocol,
            };
            Ok((action, Then::PublishedData(Box::new(published))))
        }
        RoomRequest::ConsumeData { transport_id, data_producer_id } => {
            plain(Action::ConsumeData { transport: transport_id, data_producer: data_producer_id })
        }
        RoomRequest::CloseDataProducer { data_producer_id } => Ok((
            Action::CloseDataProducer { data_producer: data_producer_id.clone() },
            Then::UnpublishedData(data_producer_id),
        )),
        RoomRequest::CloseDataConsumer { data_consumer_id } => {
            plain(Action::CloseDataConsumer { data_consumer: data_consumer_id })
        }
        RoomRequest::GetStats { transport_id, producer_id, consumer_id } => {
            plain(Action::Stats(match (transport_id, producer_id, consumer_id) {
                (Some(id), ..) => StatsOf::Transport(id),
                (_, Some(id), _) => StatsOf::Producer(id),
                (.., Some(id)) => StatsOf::Consumer(id),
                _ => StatsOf::Peer,
            }))
        }
        _ => Err(Refusal::new("unknown-type", "Unknown message type")),
    }
}

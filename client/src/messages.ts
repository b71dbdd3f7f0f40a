// The wire schema (docs/protocol.md), as far as clients need it.

export type CallType = 'audio' | 'video';
export type Rating = 'excellent' | 'good' | 'fair' | 'poor';

export interface Connected {
  type: 'connected';
  userId: string;
  sessionId: string;
  resumed: boolean;
  iceServers: RTCIceServer[];
  heartbeatMs: number;
}

export interface IncomingCallMessage {
  type: 'incoming-call';
  callId: string;
  initiatorId: string;
  callType: CallType;
  recipientIds: string[];
}

export interface ProducerInfo {
  producerId: string;
  peerId: string;
  kind: 'audio' | 'video';
  source: string;
  paused: boolean;
  appData?: Record<string, unknown>;
}

export interface DataProducerInfo {
  dataProducerId: string;
  peerId: string;
  label: string;
  protocol: string;
}

/** How one encoding of ours arrives at the server: 10 is without loss, 0 is nothing. */
export interface EncodingScore {
  encodingIdx: number;
  ssrc: number | null;
  rid?: string;
  score: number;
}

/** How a subscription arrives: from 0 to 10, like those of the encodings that it is made from. */
export interface ConsumerScore {
  /** At us. */
  score: number;
  /** At the server, of the encoding that we get. */
  producerScore: number;
  /** At the server, of every encoding. */
  producerScores: number[];
}

export interface PeerInfo {
  peerId: string;
  name?: string;
}

/** Any message of the server. The switch on `type` is the reader's; unknown types are ignored. */
export interface ServerMessage {
  type: string;
  callId?: string;
  requestId?: number | string;
  code?: string;
  error?: string;
  [field: string]: unknown;
}

/** A message of ours. */
export interface ClientMessage {
  type: string;
  [field: string]: unknown;
}

/** A refusal of the server, or a request that got no answer. `code` is the stable word of docs/protocol.md. */
export class SignalError extends Error {
  constructor(
    message: string,
    readonly code: string,
  ) {
    super(message);
    this.name = 'SignalError';
  }
}

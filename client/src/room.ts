// A room on the server's SFU, with mediasoup-client inside: publishes our tracks, subscribes to everybody else's.
import { Device, type types } from 'mediasoup-client';
import { Attachments } from './attach';
import { Emitter } from './emitter';
import type { ConsumerScore, DataProducerInfo, EncodingScore, PeerInfo, ProducerInfo, Rating, ServerMessage } from './messages';
import { SignalError } from './messages';
import type { Signal } from './signal';
import type { Wish } from './tiles';

export type RoomState = 'joining' | 'joined' | 'reconnecting' | 'left';

/** A stream of another peer that we receive. */
export interface Subscription {
  consumerId: string;
  producerId: string;
  peerId: string;
  kind: 'audio' | 'video';
  source: string;
  track: MediaStreamTrack;
  /** The publisher has paused. */
  producerPaused: boolean;
}

type RoomEvents = {
  state: [state: RoomState];
  peerJoined: [peer: PeerInfo];
  peerLeft: [peerId: string, reason: string];
  subscribed: [subscription: Subscription];
  unsubscribed: [subscription: Subscription];
  /** A publisher paused or resumed. */
  paused: [subscription: Subscription];
  /** Both are null while nothing can be forwarded. */
  layers: [consumerId: string, spatialLayer: number | null, temporalLayer: number | null];
  quality: [peerId: string, rating: Rating];
  /** Who speaks now, by the audio level that publishers send; null when nobody does. */
  activeSpeaker: [peerId: string | null];
  /** Bits per second that our link is taken to carry towards us. */
  downlink: [availableBitrate: number, rating: Rating];
  /** How what we publish under a source arrives. */
  producerScore: [source: string, scores: EncodingScore[]];
  consumerScore: [consumerId: string, score: ConsumerScore];
  /** The highest simulcast layer of ours that somebody watches; those above have been turned off. */
  layersWanted: [source: string, spatialLayer: number];
  data: [peerId: string, label: string, data: string | ArrayBuffer];
  /** We were removed, muted, or the room was closed. */
  removed: [reason: string];
  muted: [producerId: string, by: string];
  error: [error: unknown];
};

export interface RoomOptions {
  /** The name that others see. */
  name?: string;
  /** Subscribe to everything (the default) or let the app call `subscribe`. */
  autoSubscribe?: boolean;
  iceTransportPolicy?: RTCIceTransportPolicy;
  /** Another mediasoup-client's `Device`. */
  Device?: typeof Device;
}

export interface PublishOptions {
  source?: string;
  /** Three simulcast layers; by default for cameras of at least 960×540, below which browsers leave layers out. */
  simulcast?: boolean;
}

interface JoinReply {
  peerId: string;
  rtpCapabilities: types.RtpCapabilities;
  peers: PeerInfo[];
  producers: ProducerInfo[];
  dataProducers: DataProducerInfo[];
}

/** Lowest first; bit rates of a 1280×720 camera. */
const SIMULCAST: RTCRtpEncodingParameters[] = [
  { scaleResolutionDownBy: 4, maxBitrate: 150_000 },
  { scaleResolutionDownBy: 2, maxBitrate: 500_000 },
  { scaleResolutionDownBy: 1, maxBitrate: 1_500_000 },
];

/** `disconnected` often heals by itself. */
const DISCONNECTED_PATIENCE_MS = 3_000;
const CHAT_LABEL = 'chat';
/** Joining again: what may be better in a moment, how often it is tried, and the first pause; each is twice as long as the one before. */
const TRANSIENT_CODES = ['room-not-found', 'transport-not-found', 'overloaded', 'rate-limited', 'timeout', 'session-lost'];
const REJOIN_ATTEMPTS_MAX = 8;
const REJOIN_PAUSE_MS = 250;

interface Published {
  track: MediaStreamTrack;
  options: PublishOptions;
  producer: types.Producer;
}

export class Room extends Emitter<RoomEvents> {
  readonly roomId: string;
  readonly #signal: Signal;
  readonly #options: RoomOptions;
  readonly #offs: (() => void)[] = [];
  readonly #peers = new Map<string, PeerInfo>();
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #consumers = new Map<string, types.Consumer>();
  readonly #wanted = new Set<string>();
  /** Paused by the app, which tiles that come into sight do not undo. */
  readonly #held = new Set<string>();
  readonly #attachments = new Attachments((wish) => this.#onWish(wish));
  readonly #published = new Map<string, Published>();
  readonly #patience = new Map<string, ReturnType<typeof setTimeout>>();
  #state: RoomState = 'joining';
  /** What the room tells while we are not ready to act on it. */
  #early: ServerMessage[] | undefined;
  #rejoining = false;
  /** Something was lost again while we were at it. */
  #lostAgain = false;
  #peerId?: string;
  #activeSpeaker: string | null = null;
  #device?: types.Device;
  #send?: types.Transport;
  #recv?: types.Transport;
  #chat?: Promise<types.DataProducer>;

  /** Joins; peers and streams that are there already come as events after this resolves. */
  static async join(signal: Signal, roomId: string, options: RoomOptions = {}): Promise<Room> {
    const room = new Room(signal, roomId, options);
    try {
      await room.#join();
    } catch (error) {
      room.#finish();
      throw error;
    }
    return room;
  }

  private constructor(signal: Signal, roomId: string, options: RoomOptions) {
    super();
    this.#signal = signal;
    this.roomId = roomId;
    this.#options = options;
    this.#offs.push(
      signal.on('message', (message) => this.#onMessage(message)),
      signal.on('state', (state) => {
        if (state === 'reconnecting' && this.#state === 'joined') this.#setState('reconnecting');
      }),
      signal.on('connected', ({ resumed }) => void this.#onReconnected(resumed)),
      signal.on('closed', (reason) => {
        if (this.#state === 'left') return;
        this.emit('removed', reason);
        this.#finish();
      }),
    );
  }

  get state(): RoomState {
    return this.#state;
  }

  get peers(): PeerInfo[] {
    return [...this.#peers.values()];
  }

  /** Our own; it is not our user id when we are in the room from another tab, too. */
  get peerId(): string | undefined {
    return this.#peerId;
  }

  /** Who spoke last, as far as that one has not fallen silent. */
  get activeSpeaker(): string | null {
    return this.#activeSpeaker;
  }

  get subscriptions(): Subscription[] {
    return [...this.#subscriptions.values()];
  }

  /** Our producers by source. */
  producer(source: string): types.Producer | undefined {
    return this.#published.get(source)?.producer;
  }

  get sendTransport(): types.Transport | undefined {
    return this.#send;
  }

  get recvTransport(): types.Transport | undefined {
    return this.#recv;
  }

  /**
   * Publishes a track under a source; one track per source, so publishing again replaces it. A disabled track is published
   * paused: `resume` enables it.
   */
  async publish(track: MediaStreamTrack, options: PublishOptions = {}): Promise<types.Producer> {
    const source = options.source ?? (track.kind === 'audio' ? 'microphone' : 'camera');
    const present = this.#published.get(source);
    if (present) {
      await present.producer.replaceTrack({ track });
      present.track = track;
      return present.producer;
    }
    const producer = await this.#produce(track, { ...options, source });
    this.#published.set(source, { track, options: { ...options, source }, producer });
    return producer;
  }

  async unpublish(source: string): Promise<void> {
    const published = this.#published.get(source);
    if (!published) return;
    this.#published.delete(source);
    published.producer.close();
    await this.#signal.request('close-producer', { producerId: published.producer.id });
  }

  async pause(source: string): Promise<void> {
    const producer = this.#published.get(source)?.producer;
    if (!producer) return;
    producer.pause();
    await this.#signal.request('pause-producer', { producerId: producer.id });
  }

  async resume(source: string): Promise<void> {
    const producer = this.#published.get(source)?.producer;
    if (!producer) return;
    producer.resume();
    await this.#signal.request('resume-producer', { producerId: producer.id });
  }

  /** Chooses the layers of a simulcast or SVC subscription; 0 is the lowest. */
  async setPreferredLayers(consumerId: string, spatialLayer: number, temporalLayer?: number): Promise<void> {
    await this.#signal.request('set-preferred-layers', { consumerId, spatialLayer, ...(temporalLayer === undefined ? {} : { temporalLayer }) });
  }

  /** 1 to 255, 1 at first: what our link carries beyond everybody's lowest layer goes to larger numbers first. */
  async setPriority(consumerId: string, priority: number): Promise<void> {
    await this.#signal.request('set-priority', { consumerId, priority });
  }

  /**
   * Shows a subscription in an element, and follows the element from then on: its size in device pixels decides the layer and
   * the priority, and video that nobody can see is paused. What is returned detaches; so does the end of the subscription.
   */
  attach(consumerId: string, element: HTMLMediaElement): () => void {
    const [subscription, consumer] = [this.#subscriptions.get(consumerId), this.#consumers.get(consumerId)];
    if (!subscription || !consumer) return () => undefined;
    const mode = consumer.rtpParameters.encodings?.[0]?.scalabilityMode ?? '';
    const layers = Number(/^[LS](\d+)/.exec(mode)?.[1] ?? 1);
    return this.#attachments.attach({ consumerId, track: subscription.track, layers, screen: subscription.source.startsWith('screen') }, element);
  }

  async pauseSubscription(consumerId: string): Promise<void> {
    this.#held.add(consumerId);
    await this.#pauseConsumer(consumerId);
  }

  /** Video that is attached to elements which nobody can see comes when one is seen. */
  async resumeSubscription(consumerId: string): Promise<void> {
    this.#held.delete(consumerId);
    if (!this.#attachments.isHidden(consumerId)) await this.#resumeConsumer(consumerId);
  }

  async #pauseConsumer(consumerId: string): Promise<void> {
    this.#consumers.get(consumerId)?.pause();
    await this.#signal.request('pause-consumer', { consumerId });
  }

  async #resumeConsumer(consumerId: string): Promise<void> {
    this.#consumers.get(consumerId)?.resume();
    await this.#signal.request('resume-consumer', { consumerId });
  }

  #onWish(wish: Wish): void {
    const { consumerId } = wish;
    this.#grant(wish).catch((error: unknown) => {
      // It was closed, or the session went, while we asked.
      if (this.#consumers.has(consumerId) && !(error instanceof SignalError && /-not-found$|^session-lost$|^closed$/.test(error.code))) this.emit('error', error);
    });
  }

  async #grant(wish: Wish): Promise<void> {
    if (wish.type === 'layer') return this.setPreferredLayers(wish.consumerId, wish.spatialLayer);
    if (wish.type === 'priority') return this.setPriority(wish.consumerId, wish.priority);
    if (this.#held.has(wish.consumerId)) return;
    return wish.paused ? this.#pauseConsumer(wish.consumerId) : this.#resumeConsumer(wish.consumerId);
  }

  /** Sends to everybody else in the room, over the data channel. */
  async sendData(data: string | ArrayBuffer): Promise<void> {
    const channel = await this.#openChat();
    if (channel.readyState !== 'open') await new Promise<void>((done) => channel.on('open', () => done()));
    channel.send(data as string);
  }

  /** One channel for all we send. */
  #openChat(): Promise<types.DataProducer> {
    const transport = this.#send;
    if (!transport) return Promise.reject(new SignalError('Not in the room', 'not-in-room'));
    this.#chat ??= transport.produceData({ ordered: true, label: CHAT_LABEL, protocol: '' });
    return this.#chat;
  }

  /** New ICE credentials on both transports, under running media. */
  async restartIce(): Promise<void> {
    await Promise.all([this.#send, this.#recv].map((transport) => transport && this.#restart(transport)));
  }

  /** Statistics of what we receive, for a QualityMonitor. */
  async getStats(): Promise<Iterable<{ type: string; id: string } & Record<string, unknown>> | undefined> {
    const report = await this.#recv?.getStats();
    return report && ([...report.values()] as ({ type: string; id: string } & Record<string, unknown>)[]);
  }

  async leave(): Promise<void> {
    if (this.#state === 'left') return;
    const connected = this.#signal.state === 'connected';
    this.#finish();
    if (connected) await this.#signal.request('leave-room').catch(() => undefined);
  }

  async subscribe(producerId: string): Promise<Subscription | undefined> {
    const [device, transport] = [this.#device, this.#recv];
    if (!device || !transport || this.#wanted.has(producerId)) return undefined;
    this.#wanted.add(producerId);
    try {
      const info = await this.#signal.request<types.ConsumerOptions & { id: string; peerId: string; source: string; producerPaused: boolean; kind: 'audio' | 'video' }>(
        'consume',
        { transportId: transport.id, producerId, rtpCapabilities: device.rtpCapabilities },
      );
      // Audio and camera of one peer share a stream id, which is what keeps lips and voice together.
      const streamId = `${info.peerId}-${info.source.startsWith('screen') ? 'screen' : 'main'}`;
      const consumer = await transport.consume({ ...info, streamId });
      const subscription: Subscription = {
        consumerId: consumer.id, producerId, peerId: info.peerId, kind: info.kind, source: info.source, track: consumer.track, producerPaused: info.producerPaused,
      };
      this.#consumers.set(consumer.id, consumer);
      this.#subscriptions.set(consumer.id, subscription);
      this.emit('subscribed', subscription);
      // Only now: a keyframe that came before the browser was ready would be lost.
      await this.#signal.request('resume-consumer', { consumerId: consumer.id });
      return subscription;
    } catch (error) {
      this.#wanted.delete(producerId);
      // It was closed while we asked for it.
      if (error instanceof SignalError && error.code.endsWith('-not-found')) return undefined;
      throw error;
    }
  }

  async #join(): Promise<void> {
    const { name, Device: DeviceClass = Device } = this.#options;
    this.#early = [];
    const reply = await this.#signal.request<JoinReply>('join-room', { roomId: this.roomId, ...(name ? { name } : {}) });
    // What came before the reply was told of the place that we had before.
    this.#early = [];
    const device = new DeviceClass();
    await device.load({ routerRtpCapabilities: reply.rtpCapabilities });
    this.#device = device;
    this.#peerId = reply.peerId;
    [this.#send, this.#recv] = await Promise.all([this.#transport('send'), this.#transport('recv')]);
    this.#setState('joined');
    for (const peer of reply.peers) this.#addPeer(peer);
    for (const producer of reply.producers) this.#onProducer(producer.producerId);
    for (const data of reply.dataProducers) void this.#subscribeData(data);
    const early = this.#early;
    this.#early = undefined;
    for (const message of early) this.#onMessage(message);
    // Opened before it is needed: what is sent before the others have subscribed would reach nobody. A token that may not
    // publish is told so when it tries to send.
    this.#openChat().catch(() => (this.#chat = undefined));
  }

  async #transport(direction: 'send' | 'recv'): Promise<types.Transport> {
    const info = await this.#signal.request<types.TransportOptions>('create-transport', { direction });
    const options: types.TransportOptions = { ...info, ...(this.#options.iceTransportPolicy ? { iceTransportPolicy: this.#options.iceTransportPolicy } : {}) };
    const transport = direction === 'send' ? this.#device!.createSendTransport(options) : this.#device!.createRecvTransport(options);
    const ask = <Reply>(type: string, fields: Record<string, unknown>) => this.#signal.request<Reply>(type, { transportId: transport.id, ...fields });
    transport.on('connect', ({ dtlsParameters }, done, fail) => void ask('connect-transport', { dtlsParameters }).then(() => done(), fail));
    transport.on('connectionstatechange', (state) => this.#onTransportState(transport, state));
    if (direction === 'send') {
      transport.on('produce', ({ kind, rtpParameters, appData }, done, fail) =>
        void ask<{ id: string }>('produce', { kind, rtpParameters, source: appData.source, paused: appData.paused, appData: { source: appData.source } }).then(done, fail));
      transport.on('producedata', ({ sctpStreamParameters, label, protocol, appData }, done, fail) =>
        void ask<{ id: string }>('produce-data', { sctpStreamParameters, label, protocol, appData }).then(done, fail));
    }
    return transport;
  }

  async #produce(track: MediaStreamTrack, options: PublishOptions): Promise<types.Producer> {
    const transport = this.#send;
    if (!transport) throw new SignalError('Not in the room', 'not-in-room');
    const { width = 0, height = 0 } = track.getSettings();
    const simulcast = options.simulcast ?? (options.source === 'camera' && width >= 960 && height >= 540);
    const vp8 = this.#device!.rtpCapabilities.codecs?.find((codec) => codec.mimeType.toLowerCase() === 'video/vp8');
    return transport.produce({
      track,
      stopTracks: false,
      // A disabled track makes a paused producer; the others are to know it from the first moment.
      appData: { source: options.source, paused: !track.enabled },
      ...(track.kind === 'audio' ? { codecOptions: { opusDtx: true, opusFec: true } } : {}),
      ...(track.kind === 'video' && simulcast && vp8 ? { codec: vp8, encodings: SIMULCAST } : {}),
    });
  }

  #onTransportState(transport: types.Transport, state: types.ConnectionState): void {
    clearTimeout(this.#patience.get(transport.id));
    this.#patience.delete(transport.id);
    if (state !== 'failed' && state !== 'disconnected') return;
    const restart = () => {
      if (this.#signal.state !== 'connected') return this.#retryLater(transport, restart);
      this.#restart(transport).catch((error: unknown) => this.emit('error', error));
    };
    if (state === 'failed') restart();
    else this.#retryLater(transport, restart);
  }

  #retryLater(transport: types.Transport, restart: () => void): void {
    this.#patience.set(transport.id, setTimeout(restart, DISCONNECTED_PATIENCE_MS));
  }

  async #restart(transport: types.Transport): Promise<void> {
    const { iceParameters } = await this.#signal.request<{ iceParameters: types.IceParameters }>('restart-ice', { transportId: transport.id });
    if (!transport.closed) await transport.restartIce({ iceParameters });
  }

  #onProducer(producerId: string): void {
    if (this.#options.autoSubscribe === false) return;
    this.subscribe(producerId).catch((error: unknown) => this.emit('error', error));
  }

  async #subscribeData(info: DataProducerInfo): Promise<void> {
    const transport = this.#recv;
    if (!transport) return;
    try {
      const options = await this.#signal.request<types.DataConsumerOptions>('consume-data', { transportId: transport.id, dataProducerId: info.dataProducerId });
      const consumer = await transport.consumeData(options);
      consumer.on('message', (data: string | ArrayBuffer) => this.emit('data', info.peerId, info.label, data));
    } catch (error) {
      if (!(error instanceof SignalError && error.code.endsWith('-not-found'))) this.emit('error', error);
    }
  }

  #onMessage(message: ServerMessage): void {
    if (this.#state === 'left') return;
    // Between the reply to our join and our transports somebody may publish: it is in no list and must not be missed.
    if (this.#early) return void this.#early.push(message);
    switch (message.type) {
      case 'peer-joined':
        return this.#addPeer(message as unknown as PeerInfo);
      case 'peer-left':
        this.#peers.delete(String(message.peerId));
        for (const s of this.subscriptions) if (s.peerId === message.peerId) this.#unsubscribe(s.consumerId);
        if (this.#activeSpeaker === message.peerId) this.#speaks(null);
        return this.emit('peerLeft', String(message.peerId), String(message.reason ?? ''));
      case 'new-producer':
        return this.#onProducer(String(message.producerId));
      case 'new-data-producer':
        return void this.#subscribeData(message as unknown as DataProducerInfo);
      case 'producer-paused':
      case 'producer-resumed':
        for (const s of this.subscriptions) {
          if (s.producerId !== message.producerId) continue;
          s.producerPaused = message.type === 'producer-paused';
          this.emit('paused', s);
        }
        return;
      case 'producer-closed':
        for (const s of this.subscriptions) if (s.producerId === message.producerId) this.#unsubscribe(s.consumerId);
        return;
      case 'consumer-closed':
        return this.#unsubscribe(String(message.consumerId));
      case 'consumer-layers':
        this.#attachments.layer(String(message.consumerId), message.spatialLayer as number | null);
        return this.emit('layers', String(message.consumerId), message.spatialLayer as number | null, message.temporalLayer as number | null);
      case 'producer-layers-wanted':
        return this.#onLayersWanted(String(message.producerId), Number(message.spatialLayer));
      case 'producer-score': {
        const source = this.#sourceOf(message.producerId);
        if (source !== undefined) this.emit('producerScore', source, message.scores as EncodingScore[]);
        return;
      }
      case 'consumer-score': {
        const { score, producerScore, producerScores } = message as unknown as ConsumerScore;
        return this.emit('consumerScore', String(message.consumerId), { score, producerScore, producerScores });
      }
      case 'active-speaker':
        return this.#speaks(message.peerId as string | null);
      case 'downlink':
        return this.emit('downlink', Number(message.availableBitrate), message.rating as Rating);
      case 'quality':
        return this.emit('quality', String(message.peerId), message.rating as Rating);
      case 'muted':
        return this.#onMuted(String(message.producerId), String(message.by));
      case 'transport-closed':
        // When a worker fails, each of our transports is told of; only the first one is still ours.
        if (message.transportId === this.#send?.id || message.transportId === this.#recv?.id) void this.#rejoin();
        return;
      case 'room-closed':
        if (message.reason === 'failed') return void this.#rejoin();
        this.emit('removed', String(message.reason ?? message.type));
        return this.#finish();
      case 'removed':
        this.emit('removed', String(message.reason ?? message.type));
        return this.#finish();
    }
  }

  #sourceOf(producerId: unknown): string | undefined {
    for (const [source, { producer }] of this.#published) if (producer.id === producerId) return source;
    return undefined;
  }

  /** Encodings that nobody watches cost the sender's uplink and battery. */
  #onLayersWanted(producerId: string, spatialLayer: number): void {
    const source = this.#sourceOf(producerId);
    const producer = source === undefined ? undefined : this.producer(source);
    if (source === undefined || !producer) return;
    producer.setMaxSpatialLayer(spatialLayer).then(
      () => this.emit('layersWanted', source, spatialLayer),
      (error: unknown) => {
        if (!producer.closed) this.emit('error', error);
      },
    );
  }

  #speaks(peerId: string | null): void {
    if (this.#activeSpeaker === peerId) return;
    this.#activeSpeaker = peerId;
    this.emit('activeSpeaker', peerId);
  }

  #onMuted(producerId: string, by: string): void {
    for (const { producer } of this.#published.values()) if (producer.id === producerId) producer.pause();
    this.emit('muted', producerId, by);
  }

  #addPeer(peer: PeerInfo): void {
    this.#peers.set(peer.peerId, { peerId: peer.peerId, ...(peer.name ? { name: peer.name } : {}) });
    this.emit('peerJoined', peer);
  }

  #unsubscribe(consumerId: string): void {
    const subscription = this.#subscriptions.get(consumerId);
    if (!subscription) return;
    this.#subscriptions.delete(consumerId);
    this.#wanted.delete(subscription.producerId);
    this.#attachments.closed(consumerId);
    this.#held.delete(consumerId);
    this.#consumers.get(consumerId)?.close();
    this.#consumers.delete(consumerId);
    this.emit('unsubscribed', subscription);
  }

  async #onReconnected(resumed: boolean): Promise<void> {
    if (this.#state !== 'reconnecting') return;
    if (!resumed) return this.#rejoin();
    if (this.#rejoining) return;
    this.#setState('joined');
    // Media may have died with the network that the socket lost.
    for (const transport of [this.#send, this.#recv]) {
      if (transport?.connectionState === 'failed') await this.#restart(transport).catch((error: unknown) => this.emit('error', error));
    }
  }

  /** Joins again with everything that we published, several times if need be. */
  async #rejoin(): Promise<void> {
    this.#lostAgain = true;
    if (this.#rejoining) return;
    this.#rejoining = true;
    for (let attempt = 0; this.#lostAgain && this.state !== 'left'; attempt++) {
      this.#lostAgain = false;
      // Half of the pause is random: everybody in the room has lost it at the same moment.
      if (attempt > 0) await new Promise((done) => setTimeout(done, REJOIN_PAUSE_MS * 2 ** attempt * (0.5 + Math.random() / 2)));
      try {
        await this.#beginAgain();
      } catch (error) {
        this.#onRejoinFailed(error, attempt);
      }
    }
    this.#rejoining = false;
  }

  async #beginAgain(): Promise<void> {
    if (this.state === 'left') return;
    this.#setState('reconnecting');
    this.#closeMedia();
    for (const peer of this.peers) {
      this.#peers.delete(peer.peerId);
      this.emit('peerLeft', peer.peerId, 'reconnecting');
    }
    await this.#join();
    for (const published of this.#published.values()) {
      if (published.track.readyState === 'live') published.producer = await this.#produce(published.track, published.options);
    }
  }

  #onRejoinFailed(error: unknown, attempt: number): void {
    if (this.state === 'left') return;
    const refused = error instanceof SignalError ? error : undefined;
    if (refused && TRANSIENT_CODES.includes(refused.code) && attempt + 1 < REJOIN_ATTEMPTS_MAX) {
      this.#lostAgain = true;
      return;
    }
    this.emit('error', error);
    if (refused) {
      this.emit('removed', refused.message);
      this.#finish();
    }
  }

  #closeMedia(): void {
    for (const id of [...this.#subscriptions.keys()]) this.#unsubscribe(id);
    for (const timer of this.#patience.values()) clearTimeout(timer);
    this.#patience.clear();
    this.#wanted.clear();
    this.#speaks(null);
    this.#chat = undefined;
    this.#send?.close();
    this.#recv?.close();
    this.#send = this.#recv = undefined;
  }

  #finish(): void {
    if (this.#state === 'left') return;
    this.#closeMedia();
    for (const off of this.#offs) off();
    this.#published.clear();
    this.#setState('left');
    this.removeListeners();
  }

  #setState(state: RoomState): void {
    if (this.#state === state || this.#state === 'left') return;
    this.#state = state;
    this.emit('state', state);
  }
}

// Runs in the page: a client of the wire protocol made of nothing but a WebSocket and stock mediasoup-client. It shows
// that the contract holds without our SDK. `window.stock` keeps its peers by name.
(() => {
  class StockPeer {
    constructor(Device) {
      this.Device = Device;
      this.pending = new Map();
      this.notifications = [];
      this.consumers = new Map();
      this.dataConsumers = new Map();
      this.producers = new Map();
      this.nextId = 1;
      this.autoConsume = true;
      this.dataLog = [];
      this.failures = [];
    }

    async connect(ws, token) {
      this.socket = new WebSocket(ws, ['causeway', token]);
      this.closed = new Promise((done) => (this.socket.onclose = (e) => done({ code: e.code, reason: e.reason })));
      this.connected = await new Promise((done, fail) => {
        this.socket.onerror = () => fail(new Error('socket error'));
        this.socket.onmessage = (event) => {
          const message = JSON.parse(event.data);
          if (message.type === 'connected') done(message);
          this.onMessage(message);
        };
      });
    }

    onMessage(message) {
      if (message.type === 'response') {
        const waiting = this.pending.get(message.requestId);
        this.pending.delete(message.requestId);
        if (message.ok) waiting?.done(message.data);
        else waiting?.fail(Object.assign(new Error(message.error), { code: message.code }));
        return;
      }
      this.notifications.push(message);
      if (message.type === 'new-producer' && this.autoConsume) this.consume(message.producerId).catch((e) => this.failures.push(String(e)));
      if (message.type === 'new-data-producer' && this.autoConsume) this.consumeData(message.dataProducerId).catch((e) => this.failures.push(String(e)));
      if (message.type === 'consumer-closed') {
        this.consumers.get(message.consumerId)?.consumer.close();
        this.consumers.delete(message.consumerId);
      }
    }

    request(type, fields = {}) {
      const requestId = this.nextId++;
      this.socket.send(JSON.stringify({ type, requestId, ...fields }));
      return new Promise((done, fail) => {
        this.pending.set(requestId, { done, fail });
        setTimeout(() => fail(new Error(`no reply to ${type}`)), 15000);
      });
    }

    /** The code of the refusal, or "ok". */
    async refusal(type, fields) {
      try {
        await this.request(type, fields);
        return 'ok';
      } catch (error) {
        return error.code ?? String(error);
      }
    }

    async join(roomId, { iceTransportPolicy, onlyTransport, autoConsume = true, ...fields } = {}) {
      this.autoConsume = autoConsume;
      this.iceTransportPolicy = iceTransportPolicy;
      this.onlyTransport = onlyTransport;
      const room = await this.request('join-room', { roomId, ...fields });
      this.room = room;
      this.device = new this.Device();
      await this.device.load({ routerRtpCapabilities: room.rtpCapabilities });
      this.send = await this.transport('send');
      this.recv = await this.transport('recv');
      if (autoConsume) {
        await Promise.all(room.producers.map((p) => this.consume(p.producerId)));
        await Promise.all(room.dataProducers.map((p) => this.consumeData(p.dataProducerId)));
      }
      return room;
    }

    async transport(direction) {
      const info = await this.request('create-transport', { direction });
      const options = { ...info };
      if (this.iceTransportPolicy) options.iceTransportPolicy = this.iceTransportPolicy;
      if (this.onlyTransport) {
        const [scheme, over] = this.onlyTransport === 'tls' ? ['turns:', 'tcp'] : ['turn:', this.onlyTransport];
        options.iceServers = (info.iceServers ?? [])
          .map((s) => ({ ...s, urls: [].concat(s.urls).filter((u) => u.startsWith(scheme) && u.includes(`transport=${over}`)) }))
          .filter((s) => s.urls.length);
      }
      const transport = direction === 'send' ? this.device.createSendTransport(options) : this.device.createRecvTransport(options);
      transport.on('connect', ({ dtlsParameters }, done, fail) =>
        this.request('connect-transport', { transportId: transport.id, dtlsParameters }).then(done, fail));
      transport.on('produce', ({ kind, rtpParameters, appData }, done, fail) =>
        this.request('produce', { transportId: transport.id, kind, rtpParameters, source: appData.source ?? (kind === 'audio' ? 'microphone' : 'camera'), appData })
          .then(done, fail));
      transport.on('producedata', ({ sctpStreamParameters, label, protocol, appData }, done, fail) =>
        this.request('produce-data', { transportId: transport.id, sctpStreamParameters, label, protocol, appData }).then(done, fail));
      return transport;
    }

    async publish(kind, options = {}) {
      const { constraints = true, display = false, codec, ...rest } = options;
      const stream = display
        ? await navigator.mediaDevices.getDisplayMedia({ video: true })
        : await navigator.mediaDevices.getUserMedia({ [kind]: constraints });
      const track = kind === 'audio' ? stream.getAudioTracks()[0] : stream.getVideoTracks()[0];
      const chosen = codec && this.device.rtpCapabilities.codecs.find((c) => c.mimeType.toLowerCase() === codec.toLowerCase());
      const producer = await this.send.produce({ track, codec: chosen || undefined, ...rest });
      this.producers.set(producer.id, producer);
      return producer.id;
    }

    async consume(producerId) {
      const info = await this.request('consume', { transportId: this.recv.id, producerId, rtpCapabilities: this.device.rtpCapabilities });
      const consumer = await this.recv.consume({ ...info, id: info.id, streamId: `${info.peerId}-${info.source}` });
      const element = document.createElement(info.kind);
      element.srcObject = new MediaStream([consumer.track]);
      element.autoplay = true;
      // Muted audio is not decoded by Chromium, so there would be no energy to see.
      element.muted = info.kind === 'video';
      document.body.append(element);
      this.consumers.set(consumer.id, { consumer, info, element });
      await this.request('resume-consumer', { consumerId: consumer.id });
      return consumer.id;
    }

    async consumeData(dataProducerId) {
      const info = await this.request('consume-data', { transportId: this.recv.id, dataProducerId });
      const consumer = await this.recv.consumeData(info);
      consumer.on('message', (data) => {
        const binary = typeof data !== 'string';
        const size = binary ? (data.byteLength ?? data.size) : data.length;
        this.dataLog.push({ label: consumer.label, binary, size, text: binary ? undefined : data.slice(0, 100) });
      });
      await new Promise((done) => (consumer.readyState === 'open' ? done() : consumer.on('open', done)));
      this.dataConsumers.set(info.id, consumer);
      return info.id;
    }

    async restartIce() {
      for (const transport of [this.send, this.recv]) {
        const { iceParameters } = await this.request('restart-ice', { transportId: transport.id });
        await transport.restartIce({ iceParameters });
      }
    }

    /** What is decoded of each consumer: frames for video, energy for audio. */
    async decoded() {
      const out = {};
      for (const { consumer, info } of this.consumers.values()) {
        for (const report of (await consumer.getStats()).values()) {
          if (report.type !== 'inbound-rtp') continue;
          out[`${info.peerId}/${info.source}`] = {
            kind: report.kind, frames: report.framesDecoded ?? 0, energy: report.totalAudioEnergy ?? 0,
            packets: report.packetsReceived, width: report.frameWidth, height: report.frameHeight,
            freezes: report.freezeCount, keyFrames: report.keyFramesDecoded, codec: consumer.rtpParameters.codecs[0].mimeType,
            lost: report.packetsLost, nacks: report.nackCount,
          };
        }
      }
      return out;
    }

    consumerOf(peerId, source) {
      return [...this.consumers.values()].find((c) => c.info.peerId === peerId && c.info.source === source)?.consumer;
    }

    leave() {
      this.send?.close();
      this.recv?.close();
      for (const { element } of this.consumers.values()) element.remove();
      this.consumers.clear();
      return this.request('leave-room');
    }

    async candidateTypes() {
      const out = [];
      for (const transport of [this.send, this.recv]) {
        const stats = await transport.getStats();
        for (const report of stats.values()) {
          if (report.type === 'candidate-pair' && report.nominated && report.state === 'succeeded') {
            const local = stats.get(report.localCandidateId);
            out.push(`${local.candidateType}/${local.relayProtocol ?? local.protocol}`);
          }
        }
      }
      return out;
    }
  }
  window.StockPeer = StockPeer;
  window.stock = {};
})();

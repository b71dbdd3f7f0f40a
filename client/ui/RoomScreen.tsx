import { AudioLines, MicOff, MonitorUp } from 'lucide-react';
import { useEffect, useMemo, useRef, useState, type CSSProperties } from 'react';
import { CAMERA, MICROPHONE, QualityMonitor, Room, explainDeviceError, openDevices, openNextCamera, openScreen, type CallMedia, type Rating, type Signal } from '../src/index';
import { tileSize } from './grid';
import { useRefresh, useSize } from './hooks';
import { Avatar, Chat, Invite, QualityBadge, Toolbar, Video, type ChatLine } from './parts';

interface Tile {
  key: string;
  peerId: string;
  label: string;
  stream: MediaStream;
  picture: boolean;
  silent: boolean;
  screen: boolean;
  mine: boolean;
  /** The room's consumers that it shows. */
  consumers?: string;
}

/** Keeps one MediaStream per tile, so that a video element is not fed anew at each render. */
function useStreams(): (key: string, tracks: MediaStreamTrack[]) => MediaStream {
  const streams = useRef(new Map<string, MediaStream>());
  return (key, tracks) => {
    let stream = streams.current.get(key);
    if (!stream) streams.current.set(key, (stream = new MediaStream()));
    for (const track of stream.getTracks()) if (!tracks.includes(track)) stream.removeTrack(track);
    for (const track of tracks) if (!stream.getTracks().includes(track)) stream.addTrack(track);
    return stream;
  };
}

export interface RoomScreenProps {
  signal: Signal;
  roomId: string;
  /** What a call that moved here was sending; devices are opened when there was nothing. */
  media?: CallMedia;
  /** Rings somebody, who joins when they answer. */
  onInvite?: (name: string) => void;
  toast: (text: string) => void;
  onLeft: () => void;
}

export function RoomScreen({ signal, roomId, media, onInvite, toast, onLeft }: RoomScreenProps) {
  const refresh = useRefresh();
  const [room, setRoom] = useState<Room>();
  const [ratings, setRatings] = useState<Record<string, Rating>>({});
  const [chatOpen, setChatOpen] = useState(false);
  const [lines, setLines] = useState<ChatLine[]>([]);
  const [unread, setUnread] = useState(0);
  const [muted, setMuted] = useState(media?.microphone?.enabled === false);
  const [cameraOff, setCameraOff] = useState(media?.camera?.enabled === false);
  const [inviting, setInviting] = useState(false);
  const [ready, setReady] = useState(false);
  const [stage, { width, height }] = useSize();
  const streamOf = useStreams();
  const own = useMemo(() => new MediaStream([media?.microphone, media?.camera].filter((track) => track !== undefined)), [media]);
  const screen = useRef<MediaStreamTrack | undefined>(media?.screen);
  const gone = useRef(false);
  const left = useRef(onLeft);
  left.current = onLeft;

  const act = (action: Promise<unknown>) => void action.catch((error: unknown) => toast(error instanceof Error ? error.message : String(error))).finally(refresh);
  const stopSharing = async (current: Room) => {
    screen.current?.stop();
    screen.current = undefined;
    await current.unpublish('screen');
  };
  const startSharing = async (current: Room, track: MediaStreamTrack) => {
    screen.current = track;
    // The browser's own "stop sharing" button.
    track.onended = () => act(stopSharing(current));
    await current.publish(track, { source: 'screen' });
  };

  useEffect(() => {
    gone.current = false;
    let joined: Room | undefined;
    let monitor: QualityMonitor | undefined;
    const start = async () => {
      joined = await Room.join(signal, roomId);
      if (gone.current) return void joined.leave();
      const current = joined;
      for (const event of ['peerJoined', 'subscribed', 'unsubscribed', 'paused', 'state', 'activeSpeaker'] as const) current.on(event, refresh);
      current.on('peerLeft', (peerId, reason) => {
        if (reason !== 'reconnecting') toast(`${peerId} left`);
        refresh();
      });
      current.on('quality', (peerId, rating) => setRatings((all) => ({ ...all, [peerId]: rating })));
      current.on('data', (from, _label, data) => {
        if (typeof data !== 'string') return;
        setLines((list) => [...list.slice(-199), { from, text: data, mine: false }]);
        setUnread((n) => n + 1);
      });
      current.on('muted', () => {
        toast('A moderator muted you');
        setMuted(true);
      });
      current.on('removed', (reason) => {
        toast(`You are no longer in the room: ${reason}`);
        left.current();
      });
      current.on('error', () => toast('Part of the room could not be received; trying again.'));
      setRoom(current);
      monitor = new QualityMonitor(signal, { roomId }, () => current.getStats());
      monitor.on('rating', (rating) => setRatings((all) => ({ ...all, [signal.userId ?? '']: rating })));
      await publish(current);
    };
    const publish = async (current: Room) => {
      if (!own.getTracks().length) {
        const opened = (await openBest(toast)).getTracks();
        if (gone.current) return opened.forEach((track) => track.stop());
        for (const track of opened) own.addTrack(track);
      }
      for (const track of own.getTracks()) await current.publish(track);
      if (screen.current) await startSharing(current, screen.current);
      setReady(true);
    };
    start().catch((error: Error) => {
      toast(error.message);
      if (!joined) left.current();
    });
    return () => {
      gone.current = true;
      monitor?.stop();
      void joined?.leave();
      for (const track of own.getTracks()) track.stop();
      screen.current?.stop();
    };
    // A room screen lives for one room.
    // eslint-disable-next-line
  }, [signal, roomId]);

  const tiles: Tile[] = [];
  if (room) {
    const me = signal.userId ?? 'me';
    if (screen.current) tiles.push({ key: 'own-screen', peerId: me, label: 'Your screen', stream: streamOf('own-screen', [screen.current]), picture: true, silent: false, screen: true, mine: true });
    for (const s of room.subscriptions.filter((s) => s.source === 'screen')) {
      tiles.push({ key: `${s.peerId}-screen`, peerId: s.peerId, label: `${s.peerId}’s screen`, stream: streamOf(`${s.peerId}-screen`, [s.track]), picture: true, silent: false, screen: true, mine: false, consumers: s.consumerId });
    }
    tiles.push({ key: 'me', peerId: me, label: 'You', stream: own, picture: own.getVideoTracks().length > 0 && !cameraOff, silent: muted || (ready && !own.getAudioTracks().length), screen: false, mine: true });
    for (const peer of room.peers) {
      const theirs = room.subscriptions.filter((s) => s.peerId === peer.peerId && s.source !== 'screen');
      const [voice, picture] = [theirs.find((s) => s.kind === 'audio'), theirs.find((s) => s.kind === 'video')];
      tiles.push({
        key: peer.peerId,
        peerId: peer.peerId,
        label: peer.name ?? peer.peerId,
        stream: streamOf(peer.peerId, theirs.map((s) => s.track)),
        picture: picture !== undefined && !picture.producerPaused,
        // Unknown until it is subscribed; nobody is called muted who is only late.
        silent: voice?.producerPaused === true,
        screen: false,
        mine: false,
        consumers: theirs.map((s) => s.consumerId).join(' '),
      });
    }
  }

  const toggle = async (source: string, off: boolean) => {
    if (source === 'microphone') setMuted(off);
    else setCameraOff(off);
    // At once, and also while it is not published yet: a disabled track is published paused.
    for (const track of source === 'microphone' ? own.getAudioTracks() : own.getVideoTracks()) track.enabled = !off;
    await (off ? room?.pause(source) : room?.resume(source));
  };
  const share = async () => {
    if (!room) return;
    if (screen.current) return stopSharing(room);
    const track = (await openScreen()).getVideoTracks()[0];
    if (track && gone.current) track.stop();
    else if (track) await startSharing(room, track);
  };
  const switchCamera = async () => {
    const previous = own.getVideoTracks()[0];
    if (!previous || !room) return;
    const next = await openNextCamera(previous);
    if (gone.current) return next.stop();
    next.enabled = previous.enabled;
    await room.publish(next);
    own.removeTrack(previous);
    own.addTrack(next);
    previous.stop();
  };
  const send = (text: string) => {
    setLines((list) => [...list.slice(-199), { from: 'You', text, mine: true }]);
    act(room?.sendData(text) ?? Promise.resolve());
  };

  const screens = tiles.filter((tile) => tile.screen);
  const people = tiles.filter((tile) => !tile.screen);
  const size = tileSize(people.length, width, height);
  const faces = people.map((tile) => <TileView key={tile.key} room={room} tile={tile} rating={ratings[tile.peerId]} speaking={room !== undefined && room.activeSpeaker === (tile.mine ? room.peerId : tile.peerId)} />);
  return (
    <main className={`stage${chatOpen ? ' with-chat' : ''}`}>
      <header className="bar">
        <strong>{roomId.startsWith('call-') ? 'Group call' : roomId}</strong>
        <span data-testid="status" data-state={room?.state ?? 'joining'} role="status">
          {!room ? 'Joining…' : room.state === 'reconnecting' ? 'Connection lost, trying again…' : `${room.peers.length + 1} in the room`}
        </span>
      </header>
      {screens.length > 0 ? (
        <section className="focus" aria-label="Shared screen and people">
          <div className="screens">
            {screens.map((tile) => (
              <TileView key={tile.key} room={room} tile={tile} rating={undefined} speaking={false} />
            ))}
          </div>
          <div className="strip" tabIndex={0} role="group" aria-label="People">
            {faces}
          </div>
        </section>
      ) : (
        <section ref={stage} className="grid" aria-label="People" style={{ '--tile-width': `${size.width}px`, '--tile-height': `${size.height}px` } as CSSProperties}>
          {faces}
          {room && tiles.length === 1 && <p className="alone">Nobody else is here yet. Others join with the room name “{roomId}”.</p>}
        </section>
      )}
      {chatOpen && <Chat lines={lines} onSend={send} />}
      <Toolbar
        muted={muted}
        cameraOff={cameraOff}
        sharing={screen.current !== undefined}
        hasMicrophone={own.getAudioTracks().length > 0}
        hasCamera={own.getVideoTracks().length > 0}
        chatOpen={chatOpen}
        unread={chatOpen ? 0 : unread}
        hangUpLabel="Leave the room"
        hangUpTestId="leave"
        onMute={() => act(toggle('microphone', !muted))}
        onCamera={() => act(toggle('camera', !cameraOff))}
        onSwitch={() => act(switchCamera())}
        onShare={() => act(share())}
        {...(onInvite ? { onInvite: () => setInviting(true) } : {})}
        onChat={() => (setChatOpen(!chatOpen), setUnread(0))}
        onHangUp={onLeft}
      />
      {inviting && onInvite && <Invite onInvite={onInvite} onClose={() => setInviting(false)} />}
    </main>
  );
}

function TileView({ room, tile, rating, speaking }: { room: Room | undefined; tile: Tile; rating: Rating | undefined; speaking: boolean }) {
  return (
    <article className={`tile${tile.screen ? ' screen' : ''}${speaking ? ' speaking' : ''}`} aria-label={tile.label} data-testid={tile.mine ? undefined : `tile-${tile.key}`}>
      <Video stream={tile.stream} mine={tile.mine} mirrored={tile.mine && !tile.screen} testId={tile.key === 'me' ? 'self-video' : undefined} room={room} consumers={tile.consumers} />
      {!tile.picture && (
        <div className="cover">
          <Avatar name={tile.peerId} />
        </div>
      )}
      <footer>
        {tile.screen ? <MonitorUp size={14} aria-hidden /> : tile.silent && <MicOff size={14} role="img" aria-label="Muted" />}
        {speaking && <AudioLines size={14} role="img" aria-label="Speaking" />}
        <span>{tile.label}</span>
        {!tile.screen && <QualityBadge rating={rating} />}
      </footer>
    </article>
  );
}

/** Camera and microphone, or what there is of them: who has none still sees and hears the room. */
async function openBest(toast: (text: string) => void): Promise<MediaStream> {
  try {
    return await openDevices({ audio: MICROPHONE, video: CAMERA });
  } catch (error) {
    const reason = explainDeviceError(error);
    if (reason.reason === 'NotFoundError' || reason.reason === 'NotReadableError') {
      try {
        return await openDevices({ audio: MICROPHONE });
      } catch {
        // Neither: the reason below says why.
      }
    }
    toast(`${reason.message} You can watch and listen meanwhile.`);
    return new MediaStream();
  }
}

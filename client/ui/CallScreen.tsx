import { useEffect, useState } from 'react';
import { QualityMonitor, type Call, type Rating, type Signal } from '../src/index';
import { useClock, useRefresh } from './hooks';
import { Avatar, Chat, Invite, QualityBadge, Toolbar, Video, type ChatLine } from './parts';

const STATUS: Record<string, string> = {
  ringing: 'Ringing…',
  connecting: 'Connecting…',
  reconnecting: 'Connection lost, trying again…',
  upgraded: 'Moving to a room…',
};

export function CallScreen({ signal, call, toast }: { signal: Signal; call: Call; toast: (text: string) => void }) {
  const refresh = useRefresh();
  const [rating, setRating] = useState<Rating>();
  const [chatOpen, setChatOpen] = useState(false);
  const [lines, setLines] = useState<ChatLine[]>([]);
  const [unread, setUnread] = useState(0);
  const [inviting, setInviting] = useState(false);
  const clock = useClock(call.state === 'connected');

  useEffect(() => {
    const offs = [
      call.on('state', refresh),
      call.on('remote', refresh),
      call.on('local', refresh),
      call.on('error', () => toast('Something went wrong with the connection; trying again.')),
      call.on('data', (data) => {
        if (typeof data !== 'string') return;
        setLines((list) => [...list.slice(-199), { from: call.peerId, text: data, mine: false }]);
        setUnread((n) => n + 1);
      }),
    ];
    const monitor = new QualityMonitor(signal, { callId: call.callId }, async () => {
      const report = await call.peerConnection?.getStats();
      return report && [...report.values()];
    });
    monitor.on('rating', setRating);
    return () => {
      monitor.stop();
      for (const off of offs) off();
    };
  }, [signal, call, refresh, toast]);

  const act = (action: Promise<void>) => void action.catch((error: Error) => toast(error.message)).finally(refresh);
  const send = (text: string) => {
    if (call.sendData(text)) setLines((list) => [...list.slice(-199), { from: 'You', text, mine: true }]);
    else toast('The message was not sent: the connection is not open.');
  };
  const picture = call.remote.getVideoTracks().some((track) => !track.muted);
  const selfPicture = call.local.getVideoTracks().length > 0 && !call.cameraOff;

  useEffect(() => {
    // A remote track is muted while nothing comes: show the initials then.
    const tracks = call.remote.getVideoTracks();
    for (const track of tracks) track.onmute = track.onunmute = refresh;
    return () => {
      for (const track of tracks) track.onmute = track.onunmute = null;
    };
  });

  return (
    <main className={`stage${chatOpen ? ' with-chat' : ''}`}>
      <header className="bar">
        <strong>{call.peerId}</strong>
        <QualityBadge rating={call.state === 'connected' ? rating : undefined} />
        <span data-testid="status" data-state={call.state} role="status">
          {STATUS[call.state] ?? clock}
        </span>
      </header>
      <section className="duo">
        <Video stream={call.remote} testId="remote-video" />
        {!picture && (
          <div className="cover">
            <Avatar name={call.peerId} />
            <p>{call.peerId}</p>
          </div>
        )}
        <div className={`self${selfPicture ? '' : ' off'}`}>
          {selfPicture ? <Video stream={call.local} mine mirrored={!call.sharing} testId="self-video" /> : <Avatar name={signal.userId ?? '?'} />}
        </div>
      </section>
      {chatOpen && <Chat lines={lines} onSend={send} />}
      <Toolbar
        muted={call.muted}
        cameraOff={call.cameraOff}
        sharing={call.sharing}
        hasMicrophone={call.local.getAudioTracks().length > 0}
        hasCamera={call.local.getVideoTracks().length > 0}
        chatOpen={chatOpen}
        unread={chatOpen ? 0 : unread}
        hangUpLabel="Hang up"
        hangUpTestId="hang-up"
        onMute={() => (call.setMuted(!call.muted), refresh())}
        onCamera={() => (call.setCameraOff(!call.cameraOff), refresh())}
        onSwitch={() => act(call.switchCamera())}
        onShare={() => act(call.sharing ? call.stopShare() : call.shareScreen())}
        {...(call.state === 'connected' ? { onInvite: () => setInviting(true) } : {})}
        onChat={() => (setChatOpen(!chatOpen), setUnread(0))}
        onHangUp={() => call.hangUp()}
      />
      {inviting && <Invite onInvite={(name) => call.invite([name])} onClose={() => setInviting(false)} />}
    </main>
  );
}

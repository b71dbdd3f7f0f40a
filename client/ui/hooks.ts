import { useCallback, useEffect, useLayoutEffect, useReducer, useRef, useState } from 'react';
import type { Rating } from '../src/index';

export interface Toast {
  id: number;
  text: string;
}

/** Short notices that go away by themselves. */
export function useToasts(): [Toast[], (text: string) => void] {
  const [toasts, setToasts] = useState<Toast[]>([]);
  const next = useRef(1);
  const show = useCallback((text: string) => {
    const id = next.current++;
    setToasts((list) => [...list.slice(-3), { id, text }]);
    setTimeout(() => setToasts((list) => list.filter((toast) => toast.id !== id)), 6000);
  }, []);
  return [toasts, show];
}

/** Renders again when an object that React does not know has changed. */
export function useRefresh(): () => void {
  return useReducer((n: number) => n + 1, 0)[1];
}

/** A ringtone made of two tones while `ringing`; silent where the browser forbids sound without a gesture. */
export function useRingtone(ringing: boolean): void {
  useEffect(() => {
    if (!ringing) return;
    const audio = new AudioContext();
    const ring = () => {
      for (const [offset, frequency] of [[0, 523], [0.22, 659]] as const) {
        const [oscillator, gain] = [audio.createOscillator(), audio.createGain()];
        oscillator.frequency.value = frequency;
        gain.gain.setValueAtTime(0.08, audio.currentTime + offset);
        gain.gain.exponentialRampToValueAtTime(0.001, audio.currentTime + offset + 0.4);
        oscillator.connect(gain).connect(audio.destination);
        oscillator.start(audio.currentTime + offset);
        oscillator.stop(audio.currentTime + offset + 0.45);
      }
    };
    ring();
    const timer = setInterval(ring, 2000);
    return () => {
      clearInterval(timer);
      void audio.close();
    };
  }, [ringing]);
}

/** Seconds as `m:ss`. */
export function useClock(running: boolean): string {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setSeconds((s) => s + 1), 1000);
    return () => clearInterval(timer);
  }, [running]);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}

/** The size of the element that takes this ref, followed as it changes. */
export function useSize(): [ref: (element: HTMLElement | null) => void, size: { width: number; height: number }] {
  const [element, setElement] = useState<HTMLElement | null>(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  useLayoutEffect(() => {
    if (!element) return;
    const measure = () => setSize({ width: element.clientWidth, height: element.clientHeight });
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, [element]);
  return [setElement, size];
}

export const RATING_WORDS: Record<Rating, string> = {
  excellent: 'Excellent connection',
  good: 'Good connection',
  fair: 'Weak connection',
  poor: 'Poor connection',
};

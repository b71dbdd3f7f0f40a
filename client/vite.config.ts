import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// The web app: built into dist/, which is committed and embedded by the server's binary.
export default defineConfig({
  root: 'ui',
  base: '/',
  plugins: [react()],
  build: { outDir: '../dist', emptyOutDir: true, target: 'es2022', chunkSizeWarningLimit: 900, assetsInlineLimit: 0 },
  server: { proxy: { '/dev': 'http://127.0.0.1:8080', '/v1': 'http://127.0.0.1:8080', '/ws': { target: 'ws://127.0.0.1:8080', ws: true } } },
  test: { root: '.', environment: 'happy-dom', include: ['test/**/*.test.ts'] },
} as Parameters<typeof defineConfig>[0]);

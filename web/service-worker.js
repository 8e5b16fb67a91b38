/* Keeps every file of the page in the browser, so that it works without a network after the first visit.

   files.js, written when the page is made, sets VERSION and FILES. Each version has a cache of its own; it takes over when
   no page of the last one is open any more, so that no page gets files of two versions. */

importScripts('files.js');

const CACHE = `brain-tumor-unet ${VERSION}`, FAMILY = CACHE.split(' ')[0];
// What lets a page have threads; a server that cannot send these headers, as `python -m http.server`, does not have to.
const ISOLATED = {
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cross-Origin-Resource-Policy': 'cross-origin',
};

self.addEventListener('install', event => event.waitUntil(keepAll()));
self.addEventListener('activate', event => event.waitUntil(forgetOthers()));
self.addEventListener('fetch', event => {
    if (event.request.method === 'GET' && event.request.url.startsWith(self.location.origin)) event.respondWith(answer(event.request));
});

/* A file that this browser has loaded just now is asked for again only if it has changed. */
async function keepAll() {
    const cache = await caches.open(CACHE);
    await cache.addAll(FILES.map(name => new Request(name, {cache: 'no-cache'})));
}

async function forgetOthers() {
    for (const name of await caches.keys()) if (name.startsWith(`${FAMILY} `) && name !== CACHE) await caches.delete(name);
}

async function answer(request) {
    const kept = await (await caches.open(CACHE)).match(request, {ignoreSearch: true});
    const response = kept ?? await fetch(request), headers = new Headers(response.headers);
    for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
    return new Response(response.body, {status: response.status, statusText: response.statusText, headers});
}

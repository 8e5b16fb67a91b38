/* The worker as promises: what was asked, answered in order. */

export class Network {
    #worker = new Worker('worker.js', {type: 'module'});
    #waiting = new Map();
    #asked = 0;

    /* told: called with {loaded}, bytes of the network that have come, or {done, total}, slices of a volume. */
    constructor(told) {
        this.#worker.addEventListener('message', ({data: {id, result, refusal, ...news}}) => {
            if (!id) return told(news);
            const {resolve, reject} = this.#waiting.get(id);
            this.#waiting.delete(id);
            refusal ? reject(new Error(refusal)) : resolve(result);
        });
        // A script that is missing, or that the browser does not understand, never answers.
        this.#worker.addEventListener('error', () => {
            for (const {reject} of this.#waiting.values()) reject(new Error('This browser cannot run the network; take a newer one.'));
            this.#waiting.clear();
        });
    }

    /* Ends the volume that is being segmented, if there is one. */
    stop() {
        this.#worker.postMessage({stop: true});
    }

    /* The answer to a task of worker.js; an Error with a sentence if there is none. */
    ask(task, given = {}) {
        const id = ++this.#asked;
        return new Promise((resolve, reject) => {
            this.#waiting.set(id, {resolve, reject});
            this.#worker.postMessage({id, task, ...given});
        });
    }
}

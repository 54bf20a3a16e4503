// Publishes one event to a topic of Tidegate: producer TOPIC DATA [TYPE] [KEY]
//
// An empty TYPE is message. With a KEY a repetition is safe: it stores the event once. REDIS_URL says where.
// Exit code 0: stored. 1: refused, and would be again. 75: try again later, with the same key.
package main

import (
	"cmp"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	prefix    = "tidegate" // redis.prefix of the gateways
	publisher = "example"  // so that two publishers may use the same key
)

// Nothing was stored, and it may be another time.
var temporary = []string{"LOADING", "BUSY", "OOM", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN"}

// publish returns the id of the event, and "stored" or "duplicate".
func publish(ctx context.Context, client *redis.Client, topic, data, kind, key string) ([]string, error) {
	base := prefix + ":{0}:"
	keys := []string{base + "meta", base + "last", base + "heads", base + "topic:" + topic, base + "ch:" + topic}
	if key != "" {
		hash := sha1.Sum([]byte(strings.Join([]string{publisher, topic, key}, "\n")))
		keys = append(keys, fmt.Sprintf("%sidem:%x", base, hash))
	}
	return client.FCall(ctx, "tidegate_publish", keys, kind, data).StringSlice()
}

func main() {
	if len(os.Args) < 3 {
		fail(1, "usage: producer TOPIC DATA [TYPE] [KEY]")
	}
	args := append(os.Args[1:], "", "")
	key := args[3]
	options, err := redis.ParseURL(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379"))
	if err != nil {
		fail(1, "REDIS_URL: %v", err)
	}
	options.MaxRetries = -1 // the client would send it again by itself: without a key that may store it twice
	client := redis.NewClient(options)
	for _, pause := range []time.Duration{100, 500, 2000, 0} {
		answer, err := publish(context.Background(), client, args[0], args[1], args[2], key)
		var refusal redis.Error
		switch {
		case err == nil:
			fmt.Println(strings.Join(answer, " "))
			return
		case errors.As(err, &refusal) && strings.Contains(err.Error(), "Function not found"):
			fail(1, "the functions of Tidegate are not in this Redis: start a gateway once, or load functions.lua")
		case errors.As(err, &refusal) && !slices.Contains(temporary, strings.Fields(err.Error())[0]):
			fail(1, "refused: %v", err)
		case errors.As(err, &refusal):
			fmt.Fprintln(os.Stderr, "not stored:", err)
		default:
			fmt.Fprintln(os.Stderr, "whether it was stored is unknown:", err)
			if key == "" {
				os.Exit(75)
			}
		}
		time.Sleep(pause * time.Millisecond)
	}
	os.Exit(75)
}

func fail(code int, format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(code)
}

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
	"log"
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
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: producer TOPIC DATA [TYPE] [KEY]")
	}
	args := append(os.Args[1:], "", "")
	options, err := redis.ParseURL(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379"))
	if err != nil {
		log.Fatal("REDIS_URL: ", err)
	}
	options.MaxRetries = -1 // the client would send it again by itself: without a key that may store it twice
	client := redis.NewClient(options)
	for _, pause := range []time.Duration{100, 500, 2000, 0} {
		answer, err := publish(context.Background(), client, args[0], args[1], args[2], args[3])
		var refusal redis.Error
		if err == nil {
			fmt.Println(strings.Join(answer, " "))
			return
		} else if !errors.As(err, &refusal) {
			log.Print("whether it was stored is unknown: ", err)
			if args[3] == "" {
				break
			}
		} else if strings.Contains(err.Error(), "Function not found") {
			log.Fatal("the functions of Tidegate are not in this Redis: start a gateway once, or load functions.lua")
		} else if !slices.Contains(temporary, strings.Fields(err.Error())[0]) {
			log.Fatal("refused: ", err)
		} else {
			log.Print("not stored: ", err)
		}
		time.Sleep(pause * time.Millisecond)
	}
	os.Exit(75)
}
